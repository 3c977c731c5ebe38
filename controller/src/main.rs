//! The `gatehouse` binary: reads the command line and calls the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use gatehouse::ask;
use gatehouse::config::flags::{Cli, Command, EchoArgs};
use gatehouse::config::generate::GenerateCommand;
use gatehouse::echo::{self, EchoOptions};
use gatehouse::rbac;
use gatehouse::reference;
use gatehouse::run::{self, Failure};
use gatehouse::simulate::commands;

/// Gives memory back after a burst of connections and costs less CPU per allocation than the
/// allocator of the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => commands::check(&args, &mut std::io::stdout().lock()),
        Command::Explain(args) => commands::explain(&args, &mut std::io::stdout().lock()),
        Command::Cert(command) => ask::cert(&command, &mut std::io::stdout().lock()),
        Command::Account(command) => ask::account(&command, &mut std::io::stdout().lock()),
        Command::Generate(GenerateCommand::Docs(args)) => reference::write(&args),
        Command::Generate(GenerateCommand::Rbac(args)) => print(&rbac::manifests(&args)),
        Command::Echo(args) => echo_until_stopped(args),
        Command::Version => print(concat!("gatehouse ", env!("CARGO_PKG_VERSION"))),
    };
    result.unwrap_or_else(|failure| {
        // Nobody is left to tell when stderr is closed.
        writeln!(std::io::stderr(), "error: {failure}").ok();
        failure.exit_code()
    })
}

fn echo_until_stopped(args: EchoArgs) -> Result<ExitCode, Failure> {
    let options = EchoOptions {
        listen: args.listen.iter().map(ToString::to_string).collect(),
        name: args.name,
    };
    echo::until_stopped(options)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| {
            Failure::System(format!(
                "{error} (--listen); stop what listens there, or choose another address or port 0"
            ))
        })
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    Failure::unless_written(&mut std::io::stdout(), text).map(|()| ExitCode::SUCCESS)
}
