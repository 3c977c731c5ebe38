//! Plays cert-manager: Secrets as it leaves them, written as it writes them.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatehouse_tests::kubernetes::Space;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    RsaKeySize, date_time_ymd,
};
use serde_json::json;

/// Its field manager.
const MANAGER: &str = "cert-manager-certificates-issuing";
/// Bytes of PKCS#8 around the form of RSA keys that cert-manager writes (RFC 8017, appendix A.1.2).
const AROUND: usize = 26;

/// A cert-manager and the authority that it orders from.
pub(super) struct CertManager(CertifiedIssuer<'static, KeyPair>);

/// Chain and key, as PEM.
pub(super) struct Issued {
    name: String,
    pub(super) chain: String,
    pub(super) key: String,
}

impl CertManager {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named("R10");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// A certificate for this name that is so old and lives for so long still, with an RSA key as
    /// cert-manager has it unless told otherwise.
    pub(super) fn issue(&self, name: &str, age: SignedDuration, left: SignedDuration) -> Issued {
        let date = |time: Timestamp| {
            let since = Duration::try_from(time.as_duration()).expect("after 1970");
            date_time_ymd(1970, 1, 1) + since
        };
        let now = Timestamp::now();
        let mut params = CertificateParams::new([name.to_owned()]).expect("names");
        params.distinguished_name = named(name);
        params.not_before = date(now - age);
        params.not_after = date(now + left);
        params.use_authority_key_identifier_extension = true;
        let algorithm = &rcgen::PKCS_RSA_SHA256;
        let key = KeyPair::generate_rsa_for(algorithm, RsaKeySize::_2048).expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let lines = BASE64_STANDARD.encode(&key.serialize_der()[AROUND..]);
        let lines: Vec<_> = lines.as_bytes().chunks(64).collect();
        let text = String::from_utf8(lines.join(&b'\n')).expect("base64");
        let label = "RSA PRIVATE KEY";
        Issued {
            name: name.to_owned(),
            chain: format!("{}{}", lf(&certificate.pem()), lf(&self.0.pem())),
            key: format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"),
        }
    }
}

impl Issued {
    /// Writes it as what the Certificate of the Secret's name has brought.
    pub(super) fn write(&self, space: &Space<'_>, secret: &str) {
        let entry = |text: &str| BASE64_STANDARD.encode(text);
        let applied = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": secret,
                "labels": {"controller.cert-manager.io/fao": "true"},
                "annotations": {
                    "cert-manager.io/alt-names": self.name,
                    "cert-manager.io/certificate-name": secret,
                    "cert-manager.io/common-name": self.name,
                    "cert-manager.io/ip-sans": "",
                    "cert-manager.io/issuer-group": "cert-manager.io",
                    "cert-manager.io/issuer-kind": "ClusterIssuer",
                    "cert-manager.io/issuer-name": "letsencrypt-prod",
                    "cert-manager.io/uri-sans": "",
                },
            },
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": entry(&self.chain), "tls.key": entry(&self.key)},
        });
        let manager = format!("--field-manager={MANAGER}");
        let flags = [
            "-n",
            &space.name,
            "apply",
            "--server-side",
            "--force-conflicts",
        ];
        let flags = [&flags[..], &[&*manager, "-f", "-"]].concat();
        let kubectl = space.kubectl();
        kubectl.run_with(&flags, &applied.to_string()).success();
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Line ends as Go writes them.
fn lf(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}
