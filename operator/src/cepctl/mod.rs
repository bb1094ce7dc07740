//! `cepctl`, and `kubectl cep` when installed as `kubectl-cep`: what people do with ClusterEndpoints
//! beside writing them.
//!
//! Each command is read → decide → print. What decides is pure and has golden tests: `convert::translate`,
//! `migrate::translate` and `migrate::handover` (the next step from what is observed),
//! `explain::findings`.

mod cli;
mod cluster;
mod convert;
mod documents;
mod explain;
mod migrate;
mod output;
mod probe;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;

use self::cli::{Cli, Command};

/// How a command ended, when it did not fail altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Everything as wished.
    Done = 0,
    /// Some of it went wrong; the complaints have been made.
    Partly = 1,
    /// `probe`: not every host answered as its check expects.
    HostFailed = 3,
}

/// Runs the program with these arguments, the first of which is its name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = cli::command(arguments.first().map(OsString::as_os_str));
    let cli = match command.try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            output::complain(&error);
            ExitCode::from(Exit::Partly as u8)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Convert(arguments) => convert::run(&arguments, &cli.global).await,
            Command::Migrate(arguments) => migrate::run(&arguments, &cli.global).await,
            Command::Probe(arguments) => probe::run(&arguments, &cli.global).await,
            Command::Explain(arguments) => explain::run(&arguments, &cli.global).await,
        }
    })
}
