//! The command line.
//!
//! Every error is a sentence that names the flag, the value and the remedy: clap adds flag and
//! value in front of what the parsers here say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::generate::GenerateCommand;
use super::people::{AccountCommand, CertCommand};
use super::selector::selector;
use super::values::{duration, label, listen_address, namespaced_name};
use super::{
    Base, CertificateArgs, ClassReading, ClassRules, Defaults, HostOwnership, IssuerArgs, SETTINGS,
    StatusArgs,
};

/// Ingress controller and HTTP gateway in one binary.
#[derive(Debug, Parser)]
#[command(name = "gatehouse", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the objects of a cluster, or the manifests of a directory, and follow their changes.
    ///
    /// Without --dir and --kubeconfig, those of the cluster in whose pod this runs.
    Run(Box<RunArgs>),
    /// Read the manifests of a directory and print everything that is wrong with them.
    ///
    /// Exit status: 0 when there is no error (warnings are allowed unless --strict is given), 1
    /// when there is one, 2 when the arguments cannot be used.
    Check(CheckArgs),
    /// Say which listener, host, rule and backend serve a request, and which rules nearly did.
    #[command(override_usage = "gatehouse explain [OPTIONS] DIR METHOD URL\n       \
                                gatehouse explain [OPTIONS] --admin URL METHOD URL")]
    Explain(ExplainArgs),
    /// Ask about certificates that are ordered, and act on them.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Ask about accounts at authorities, and act on them.
    #[command(subcommand)]
    Account(AccountCommand),
    /// A backend for trying things out: answers with what it received, as JSON.
    Echo(EchoArgs),
    /// Print or write what is made from the tables in the program.
    #[command(subcommand)]
    Generate(GenerateCommand),
    /// Print the version.
    Version,
}

/// Flags that mean nothing to a directory.
const CLUSTER_ONLY: [&str; 10] = [
    "kubeconfig",
    "context",
    "watch_ingress_selector",
    "leader_election",
    "election_id",
    "update_status",
    "update_status_on_shutdown",
    "publish_service",
    "publish_status_address",
    "report_node_internal_ip_address",
];

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = settings_help(), args_override_self = true)]
pub struct RunArgs {
    /// Directory with manifests (*.yaml, *.yml, *.json, read recursively); changes are followed.
    #[arg(long, value_name = "DIR", conflicts_with_all = CLUSTER_ONLY)]
    pub dir: Option<PathBuf>,

    /// File that says how to reach the cluster, as kubectl reads it.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of that file; the default is its current one.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,

    /// Labels that an Ingress must have to be read, in the form of `kubectl get -l`.
    #[arg(long, value_name = "SELECTOR", value_parser = selector)]
    pub watch_ingress_selector: Option<String>,

    /// Where to listen for HTTP.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8080", value_parser = listen_address)]
    pub http_listen: SocketAddr,

    /// Where to listen for HTTPS.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8443", value_parser = listen_address)]
    pub https_listen: SocketAddr,

    /// Where to listen for health checks, metrics and the API. Not protected: keep it on a
    /// loopback address, where it answers to addresses, localhost and *.localhost only, or behind
    /// a firewall.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091", value_parser = listen_address)]
    pub admin_listen: SocketAddr,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub selection: SelectionArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub status: StatusArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub certificates: CertificateArgs,

    /// Worker threads; the default is one for each core.
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,

    /// Form of the lines on stderr.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Least severe lines to print: error, warn, info, debug or trace.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Form of the access log on stdout.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "json")]
    pub access_log: AccessLogFormat,

    /// How long to go on accepting connections after SIGTERM, so that load balancers notice. In the
    /// second half of it, connections end with their next answer.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub drain_delay: Duration,

    /// How long running requests and tunnels may take to finish after that.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub drain_timeout: Duration,
}

/// Which objects are served and how: everything that decides the table.
///
/// Switches take `=true` and `=false` as well, as those of ingress-nginx do.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, not the states of one thing"
)]
pub struct SelectionArgs {
    /// Class name served: the value of the legacy annotation kubernetes.io/ingress.class, and
    /// with --ingress-class-by-name of spec.ingressClassName.
    #[arg(long, value_name = "NAME", default_value = "gatehouse", value_parser = class)]
    pub ingress_class: String,

    /// Controller name of the IngressClasses served; may be repeated.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "gatehouse.dev/ingress-controller",
        value_parser = controller
    )]
    pub controller_class: Vec<String>,

    /// Serve Ingresses whose spec.ingressClassName is the name of --ingress-class, whatever the
    /// controller of that class.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub ingress_class_by_name: bool,

    /// Serve Ingresses that name no class, too.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub watch_ingress_without_class: bool,

    /// Namespace to read; may be repeated. The default is all. In a cluster, no right beyond these
    /// namespaces is used then: IngressClasses, which belong to none, are not read, and
    /// spec.ingressClassName is compared with --ingress-class.
    #[arg(long, value_name = "NAMESPACE", value_parser = label)]
    pub watch_namespace: Vec<String>,

    /// Service that answers hosts and paths that nothing else serves.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub default_backend_service: Option<ObjectName>,

    /// Secret with the certificate for hosts that have none.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub default_ssl_certificate: Option<ObjectName>,

    /// Leave out every Ingress that has a default backend.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_catch_all: bool,

    /// Serve ExternalName services that stand for a service or pod of another namespace by its
    /// name in the cluster, such as `cart.shop.svc.cluster.local`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub cross_namespace_external_names: bool,

    /// What happens when several namespaces have rules for one host. It belongs to the namespace of
    /// the oldest Ingress that names it; `warn` serves the others and tells them, `enforce` does not
    /// serve them.
    #[arg(long, value_enum, value_name = "MODE", default_value = "warn")]
    pub host_ownership: HostOwnership,

    /// ConfigMap with settings, followed live; it wins over --set.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub configmap: Option<ObjectName>,

    /// A setting, by the name it has in the ConfigMap; may be repeated. `gatehouse run --help`
    /// lists all names.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directory with manifests.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Exit with 1 for warnings, too.
    #[arg(long)]
    pub strict: bool,

    /// Print a JSON list.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub issuers: IssuerArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub selection: SelectionArgs,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Ask a running gateway through its admin address instead of reading a directory.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,

    /// Directory with manifests (not with --admin), then method and URL of the request.
    #[arg(value_name = "[DIR] METHOD URL", num_args = 2..=3, required = true)]
    pub request: Vec<String>,

    /// Header field of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "Name: value")]
    pub header: Vec<String>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub issuers: IssuerArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a doc comment here would become the help of the flag group"
    )]
    pub selection: SelectionArgs,
}

/// Flags of `echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// Where to listen; can be given several times.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000", value_parser = listen_address)]
    pub listen: Vec<SocketAddr>,

    /// Name in reports; without one, the address that took the connection.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Form of the lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least severe lines to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Needs a human now.
    Error,
    /// Degraded.
    Warn,
    /// Starts, stops, generations.
    Info,
    /// Each object.
    Debug,
    /// Each request.
    Trace,
}

impl LogLevel {
    /// The level of the same name.
    pub fn level(self) -> tracing::Level {
        match self {
            Self::Error => tracing::Level::ERROR,
            Self::Warn => tracing::Level::WARN,
            Self::Info => tracing::Level::INFO,
            Self::Debug => tracing::Level::DEBUG,
            Self::Trace => tracing::Level::TRACE,
        }
    }
}

/// Form of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// The combined format of nginx, with more fields at the end.
    Nginx,
    /// None.
    Off,
}

/// Namespace and name of an object.
pub type ObjectName = (Arc<str>, Arc<str>);

impl SelectionArgs {
    /// The values that these flags stand for, or what is wrong with them.
    pub fn base(&self) -> Result<Base, String> {
        let names = |list: &[String]| list.iter().map(|name| name.as_str().into()).collect();
        let defaults = Defaults {
            classes: ClassRules {
                controllers: names(&self.controller_class),
                class: self.ingress_class.as_str().into(),
                by_name: self.ingress_class_by_name,
                without_class: self.watch_ingress_without_class,
                reading: ClassReading::default(),
            },
            default_backend: self.default_backend_service.clone(),
            default_certificate: self.default_ssl_certificate.clone(),
            disable_catch_all: self.disable_catch_all,
            cross_namespace_names: self.cross_namespace_external_names,
            watch_namespaces: names(&self.watch_namespace),
            host_ownership: self.host_ownership,
            ..Defaults::default()
        };
        Base::new(defaults, self.configmap.clone())
            .assign(
                self.set
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            )
            .map_err(|message| format!("invalid value for '--set <NAME=VALUE>': {message}"))
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write it as NAME=VALUE, for example `proxy-body-size=8m`".into()),
    }
}

fn class(text: &str) -> Result<String, String> {
    named(text).ok_or_else(|| "write the name of a class, for example `gatehouse`".into())
}

fn controller(text: &str) -> Result<String, String> {
    let example = "write the name of a controller, for example `gatehouse.dev/ingress-controller`";
    named(text).ok_or_else(|| example.into())
}

/// Nothing else has such a name, and nothing at all would be served without one.
fn named(text: &str) -> Option<String> {
    let usable = !text.is_empty() && !text.contains(char::is_whitespace);
    usable.then(|| text.to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "write a time such as `500ms`, `30s` or `5m`".into())
}

fn workers(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=1024).contains(count))
        .ok_or_else(|| "write a number of threads from 1 to 1024".into())
}

fn settings_help() -> String {
    use std::fmt::Write;

    let mut text =
        String::from("Settings, for --set and the ConfigMap (name, example, meaning):\n");
    for setting in SETTINGS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {}={}\n          {}",
            setting.name, setting.example, setting.doc
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn error(arguments: &[&str]) -> String {
        Cli::try_parse_from(arguments.iter().copied())
            .expect_err("must not parse")
            .to_string()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_flag_is_answered_with_its_name_its_value_and_the_remedy() {
        let cases: &[(&[&str], [&str; 3])] = &[
            (
                &["--http-listen", "8080"],
                ["--http-listen", "'8080'", "127.0.0.1:8080"],
            ),
            (&["--workers", "0"], ["--workers", "'0'", "from 1 to 1024"]),
            (
                &["--drain-delay", "soon"],
                ["--drain-delay", "'soon'", "`30s`"],
            ),
            (
                &["--default-ssl-certificate", "tls"],
                ["--default-ssl-certificate", "'tls'", "namespace/name"],
            ),
            (&["--set", "hsts"], ["--set", "'hsts'", "NAME=VALUE"]),
            (
                &["--kubeconfig", "config"],
                ["--dir", "--kubeconfig", "cannot be used with"],
            ),
            (
                &["--context", "blue"],
                ["--context", "--dir", "cannot be used with"],
            ),
            (
                &["--ingress-class", ""],
                ["--ingress-class", "''", "`gatehouse`"],
            ),
            (
                &["--controller-class", " "],
                [
                    "--controller-class",
                    "' '",
                    "gatehouse.dev/ingress-controller",
                ],
            ),
            (&["--access-log", "xml"], ["--access-log", "'xml'", "nginx"]),
            (
                &["--watch-ingress-selector", "a in ("],
                ["--watch-ingress-selector", "'a in ('", "letter 7"],
            ),
        ];
        for (flags, words) in cases {
            let mut arguments = vec!["gatehouse", "run", "--dir", "."];
            arguments.extend_from_slice(flags);
            let message = error(&arguments);
            for word in words {
                assert!(message.contains(word), "{word} is missing in: {message}");
            }
        }
    }

    #[test]
    fn a_directory_has_no_status() {
        let flag = "--publish-status-address=203.0.113.7";
        let message = error(&["gatehouse", "run", "--dir", ".", flag]);
        for word in ["--dir", "--publish-status-address", "cannot be used with"] {
            assert!(message.contains(word), "{word} is missing in: {message}");
        }
    }

    #[test]
    fn a_bad_setting_is_answered_in_the_same_way() {
        let cli = Cli::try_parse_from([
            "gatehouse",
            "run",
            "--dir",
            ".",
            "--set",
            "proxy-body-size=large",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        let message = run.selection.base().unwrap_err();
        for word in ["--set", "proxy-body-size", "large", "8k"] {
            assert!(message.contains(word), "{word} is missing in: {message}");
        }
    }

    #[test]
    fn flags_reach_the_defaults() {
        let cli = Cli::try_parse_from([
            "gatehouse",
            "run",
            "--dir",
            ".",
            "--ingress-class",
            "nginx",
            "--controller-class",
            "k8s.io/ingress-nginx",
            "--controller-class",
            "example.com/two",
            "--watch-ingress-without-class",
            "--ingress-class-by-name=true",
            "--disable-catch-all=false",
            "--default-backend-service",
            "web/fallback",
            "--set",
            "ssl-redirect=false",
            "--set",
            "use-forwarded-headers=true",
            "--set",
            "proxy-real-ip-cidr=0.0.0.0/0,::/0",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        let (defaults, settings) = run.selection.base().unwrap().values();
        assert_eq!(defaults.classes.controllers.len(), 2);
        assert!(defaults.classes.without_class);
        assert!(defaults.classes.by_name);
        assert!(!defaults.disable_catch_all);
        assert!(!defaults.https_redirect);
        assert_eq!(
            defaults.default_backend,
            Some(("web".into(), "fallback".into()))
        );
        assert_eq!(settings.trust.forwarded_from.len(), 2);
        assert_eq!(run.http_listen.port(), 8080);
    }
}
