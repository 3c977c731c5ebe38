//! Flags about certificates that Gatehouse orders itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::flags::{ObjectName, time};
use super::values::namespaced_name;

/// Which Ingresses ask for certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Managed {
    /// None: no authority is configured.
    #[default]
    No,
    /// Those that name an issuer.
    Annotated,
    /// Those, and those with `kubernetes.io/tls-acme: "true"`.
    Tracked,
}

/// From whom certificates are ordered, and for which Ingresses.
#[derive(Debug, Clone, Default, Args)]
pub struct IssuerArgs {
    /// File with the authorities that certificates are ordered from, as the key `acme`.
    #[arg(long, value_name = "FILE")]
    pub acme: Option<PathBuf>,

    /// Order certificates of the default issuer for Ingresses with the annotation
    /// kubernetes.io/tls-acme: "true", too.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set, requires = "acme")]
    pub acme_track_tls_acme: bool,
}

/// Certificates from authorities.
#[derive(Debug, Clone, Default, Args)]
pub struct CertificateArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub issuers: IssuerArgs,

    /// Directory in which ordered certificates, their keys and the accounts are kept; created when it
    /// does not exist. In a cluster they are kept in Secrets of the namespace that Gatehouse lives in.
    #[arg(long, value_name = "PATH", requires_all = ["acme", "dir"])]
    pub certs: Option<PathBuf>,

    /// Directory with the secrets that --acme names, one folder for each; the default is `secrets`
    /// beside that file.
    #[arg(long, value_name = "PATH", requires = "acme")]
    pub acme_secrets: Option<PathBuf>,

    /// Service whose endpoints are the replicas, with ports named http and https: each of them is asked
    /// for the answer to a challenge before the authority is told to look.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "acme", conflicts_with = "dir", value_parser = namespaced_name)]
    pub acme_replicas_service: Option<ObjectName>,

    /// How long a certificate is kept that nothing asks for any more.
    #[arg(long, value_name = "TIME", default_value = "72h", value_parser = time)]
    pub acme_keep_unwanted: Duration,
}

impl IssuerArgs {
    /// Which Ingresses ask for certificates.
    pub fn managed(&self) -> Managed {
        match (&self.acme, self.acme_track_tls_acme) {
            (None, _) => Managed::No,
            (Some(_), false) => Managed::Annotated,
            (Some(_), true) => Managed::Tracked,
        }
    }
}
