//! A throw-away certificate authority and what it signs, as files in a folder.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::manifests::Scratch;

/// The authority; its certificate is `ca.crt`.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes one.
    pub(crate) fn new(scratch: &Scratch) -> Self {
        let mut params = named("gatehouse-tests", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("certificate authority");
        scratch.write("ca.crt", issuer.pem());
        Self(issuer)
    }

    /// Writes `server.crt|key` for a server of this name, with these addresses and DNS names.
    pub(crate) fn server(&self, scratch: &Scratch, name: &str, at: &[IpAddr], hosts: &[&str]) {
        let mut params = named(name, None);
        params.subject_alt_names = at.iter().copied().map(SanType::IpAddress).collect();
        for host in hosts {
            let host = (*host).try_into().expect("a DNS name");
            params.subject_alt_names.push(SanType::DnsName(host));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.signed(scratch, "server", params);
    }

    /// Writes `NAME.crt|key` for a client of this name and group.
    pub(crate) fn client(&self, scratch: &Scratch, name: &str, group: &str) {
        let mut params = named(name, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.signed(scratch, name, params);
    }

    fn signed(&self, scratch: &Scratch, file: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.0).expect("certificate");
        scratch.write(&format!("{file}.crt"), certificate.pem());
        scratch.write(&format!("{file}.key"), key.serialize_pem());
    }
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
