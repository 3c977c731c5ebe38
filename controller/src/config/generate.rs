//! The command line of `generate`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::flags::ObjectName;
use super::values::{label, namespaced_name};

/// What `generate` makes.
#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// The reference pages: settings, annotations, metrics and diagnostics.
    Docs(DocsArgs),
    /// The rights that `run` needs in a cluster, with the account that has them.
    ///
    /// Give it the flags that `run` is started with: what is not used is not asked for. Apply it
    /// with `gatehouse generate rbac | kubectl apply -f -`.
    Rbac(Box<RbacArgs>),
}

/// Flags of `generate docs`.
#[derive(Debug, Args)]
pub struct DocsArgs {
    /// Directory to write the pages to; those that are there are replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Flags of `generate rbac`.
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
#[derive(Debug, Args)]
pub struct RbacArgs {
    /// Namespace that Gatehouse itself lives in.
    #[arg(long, value_name = "NAMESPACE", default_value = "gatehouse", value_parser = label)]
    pub namespace: String,

    /// Account that it runs under.
    #[arg(long, value_name = "NAME", default_value = "gatehouse", value_parser = label)]
    pub service_account: String,

    /// Namespace to read, as for `run`; may be repeated. Then there are Roles only, and no right
    /// beyond these namespaces.
    #[arg(long, value_name = "NAMESPACE", value_parser = label)]
    pub watch_namespace: Vec<String>,

    /// Secret with the certificate for hosts that have none, as for `run`.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub default_ssl_certificate: Option<ObjectName>,

    /// ConfigMap with settings, as for `run`.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub configmap: Option<ObjectName>,

    /// Whether one of several replicas is elected, as for `run`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_election: bool,

    /// Name of the Lease that the replicas compete for, as for `run`.
    #[arg(long, value_name = "NAME", default_value = "gatehouse-leader", value_parser = label)]
    pub election_id: String,

    /// Whether the status of Ingresses is written, as for `run`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub update_status: bool,

    /// Whether it is taken back in the end, as for `run`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub update_status_on_shutdown: bool,

    /// Service whose addresses are written, as for `run`.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub publish_service: Option<ObjectName>,

    /// Address that is written, as for `run`. With neither, nodes are asked for theirs.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub publish_status_address: Vec<String>,

    /// Whether certificates are ordered, with --acme of `run`.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub acme: bool,

    /// Namespace whose Secrets may be written for that; may be repeated. The default is every
    /// namespace that is read.
    #[arg(long, value_name = "NAMESPACE", value_parser = label)]
    pub acme_namespace: Vec<String>,
}

impl RbacArgs {
    /// Whether the addresses in the status are those of nodes. They belong to no namespace.
    pub fn asks_nodes(&self) -> bool {
        let told = self.publish_service.is_some() || !self.publish_status_address.is_empty();
        self.update_status && !told && self.watch_namespace.is_empty()
    }
}
