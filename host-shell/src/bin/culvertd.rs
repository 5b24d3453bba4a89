//! The daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use culvert_host::daemon;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// culvert's daemon: forwards the packets of this node's pods.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration of this node.
    #[arg(long, default_value = "/etc/culvert/culvert.toml")]
    config: PathBuf,
    /// Only check the configuration, and say what is wrong with it.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match daemon::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    let filter = match config.log.parse::<Targets>() {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("log = {:?}: {error}", config.log)),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(daemon::run(config)),
        Err(error) => return fail(&format!("no asynchronous runtime: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Lifts the soft limit of open files to the hard one: each pod takes a descriptor,
/// and services are started with 1,024, which old programs with select(2) need.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays, and with it that of pods");
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("culvertd: {error}");
    ExitCode::FAILURE
}
