//! The keys and certificates of one API server, as files in its folder.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::manifests::Scratch;

/// Writes `ca.crt`, `server.crt|key`, `admin.crt|key` and `accounts.key|pub`.
pub(super) fn write(scratch: &Scratch, server: IpAddr) {
    let mut params = named("gatehouse-tests", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("key");
    let issuer = CertifiedIssuer::self_signed(params, key).expect("certificate authority");
    scratch.write("ca.crt", issuer.pem());

    let mut params = named("kube-apiserver", None);
    params.subject_alt_names = vec![SanType::IpAddress(server)];
    for name in ["localhost", "kubernetes.default.svc"] {
        let name = name.try_into().expect("a DNS name");
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(scratch, "server", params, &issuer);

    // The group that RBAC lets do everything.
    let mut params = named("admin", Some("system:masters"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(scratch, "admin", params, &issuer);

    let accounts = KeyPair::generate().expect("key");
    scratch.write("accounts.key", accounts.serialize_pem());
    scratch.write("accounts.pub", accounts.public_key_pem());
}

fn named(name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        let kind = DnType::OrganizationName;
        params.distinguished_name.push(kind, organization);
    }
    params
}

fn signed(
    scratch: &Scratch,
    file: &str,
    params: CertificateParams,
    issuer: &CertifiedIssuer<'_, KeyPair>,
) {
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, issuer).expect("certificate");
    scratch.write(&format!("{file}.crt"), certificate.pem());
    scratch.write(&format!("{file}.key"), key.serialize_pem());
}
