//! The command lines of `cert` and `account`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::flags::ObjectName;
use super::values::{label, namespaced_name};

/// What `cert` does.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// List all certificates that are ordered, and how they stand.
    List(ListArgs),
    /// Say how one certificate stands: what there is, what failed, in whose words, and what is next.
    Show(ShowArgs),
    /// Look from here whether an authority could issue for a host: addresses, CAA, the way to the
    /// listeners. Nothing is ordered.
    ///
    /// Exit status: 0 when nothing stands in the way, 1 when something does.
    Check(CheckHostArgs),
    /// Renew a certificate now instead of at its time.
    Renew(RenewArgs),
    /// End the wait after a failure, and try again now.
    Retry(OneArgs),
    /// Revoke a certificate at its authority. It is replaced at once, and served until then.
    ///
    /// Where a limit of the authority stands in the way of another one it is not revoked, unless the
    /// reason is key-compromise.
    Revoke(RevokeArgs),
    /// Take a certificate over that somebody else ordered: it is served, and renewed in time.
    ///
    /// CHAIN is what certbot calls fullchain.pem, KEY what it calls privkey.pem. With --certs, no
    /// process may work in the directory; before the first start, make it.
    Import(ImportArgs),
    /// Write a certificate with its chain; with --key also its private key, from a directory only.
    Export(ExportArgs),
}

/// What `account` does.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Show the account of each issuer.
    Show(AccountShowArgs),
    /// Give the account of an issuer another key. The old one is worth nothing afterwards.
    Rotate(RotateArgs),
}

/// Whom to ask.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// Admin address of the gateway to ask.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9091")]
    pub admin: String,
}

/// Where to look: a running gateway, or a directory.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,

    /// Look into the directory of `run --certs` instead of asking a gateway.
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    pub certs: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// JSON.
    Json,
}

/// How to print.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Form of what is printed.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Flags of `cert list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub place: PlaceArgs,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub output: OutputArgs,
}

/// Flags of `cert show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub place: PlaceArgs,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub output: OutputArgs,
}

/// Flags of `cert retry`.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,
}

/// Flags of `cert renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    /// Also when it is the last one that the authority issues for these names this week.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,
}

/// Flags of `cert revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    /// Why, in the words of RFC 5280.
    #[arg(long, value_enum, value_name = "REASON", default_value = "unspecified")]
    pub reason: RevocationReason,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,
}

/// Reasons that an owner can give (RFC 5280, section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RevocationReason {
    /// None is given.
    Unspecified,
    /// Somebody else may have the private key.
    #[value(alias = "keyCompromise")]
    KeyCompromise,
    /// The names are somebody else's now.
    #[value(alias = "affiliationChanged")]
    AffiliationChanged,
    /// Another certificate has taken its place.
    Superseded,
    /// The names are not used any more.
    #[value(alias = "cessationOfOperation")]
    CessationOfOperation,
}

impl RevocationReason {
    /// The number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
        }
    }
}

/// Flags of `cert import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    /// File with the certificate and its chain, PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "key",
        required_unless_present = "acme_json"
    )]
    pub chain: Option<PathBuf>,
    /// File with its private key, PEM, without a password.
    #[arg(long, value_name = "FILE", requires = "chain")]
    pub key: Option<PathBuf>,
    /// The acme.json of Traefik 2 or 3, instead of the two.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chain", "key"], requires = "host")]
    pub acme_json: Option<PathBuf>,
    /// Host whose certificate is taken out of it.
    #[arg(long, value_name = "HOST", requires = "acme_json")]
    pub host: Option<String>,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub place: PlaceArgs,
}

/// Flags of `cert export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The Secret that the certificate is for.
    #[arg(value_name = "NAMESPACE/SECRET", value_parser = namespaced_name)]
    pub certificate: ObjectName,
    /// File to write the certificate and its chain to, which must not exist; without it they are
    /// printed.
    #[arg(long, value_name = "FILE")]
    pub chain: Option<PathBuf>,
    /// File to write the private key to, which must not exist; only its owner may read it.
    /// Needs --certs: a gateway hands no key out.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub place: PlaceArgs,
}

/// Flags of `cert check`.
#[derive(Debug, Args)]
pub struct CheckHostArgs {
    /// The host, or *.name for a wildcard.
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Name of the authority in CAA records, such as letsencrypt.org: says whether they let it.
    #[arg(long, value_name = "NAME")]
    pub authority: Option<String>,
    /// DNS server to ask; the default are those of the system. May be repeated.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub resolver: Vec<std::net::SocketAddr>,
    /// Port on which the authority validates HTTP-01.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub http_port: u16,
    /// Port on which the authority validates TLS-ALPN-01.
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub https_port: u16,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub output: OutputArgs,
}

/// Flags of `account show`.
#[derive(Debug, Args)]
pub struct AccountShowArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub output: OutputArgs,
}

/// Flags of `account rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The issuer, as it is named in the file of issuers.
    #[arg(value_name = "ISSUER", value_parser = label)]
    pub issuer: String,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub admin: AdminArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_may_be_written_as_the_rfc_does() {
        for (word, code) in [
            ("keyCompromise", 1),
            ("key-compromise", 1),
            ("affiliationChanged", 3),
            ("cessationOfOperation", 5),
        ] {
            let reason = RevocationReason::from_str(word, false).expect(word);
            assert_eq!(reason.code(), code);
        }
    }
}
