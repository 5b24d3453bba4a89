//! The CNI plugin: reads the environment and stdin, asks the daemon, prints the result.
//!
//! Runtimes start it for every call, so it links neither a runtime nor a logger. It never hangs:
//! stdin and the daemon both have a deadline.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use culvert_host::api::{Client, ClientError, CniRequest, MAX_REQUEST, Request};
use culvert_host::cni::{CniError, Command, Environment, NetConf, Version, code, version_answer};
use culvert_host::spool;
use serde_json::Value;

/// Longest configuration in bytes; with the environment around it, it must fit a request line.
const MAX_CONFIG: usize = MAX_REQUEST / 2;
/// How long the runtime may take to write the configuration.
const STDIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the second try after spooling may take.
const SECOND_TRY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // The error has to carry the version that the runtime speaks, once that is known.
    let mut version = Version::LATEST;
    match run(&mut version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&result, ExitCode::SUCCESS),
        Err(error) => print(&error.to_json(version), ExitCode::FAILURE),
    }
}

fn print(value: &Value, status: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    match writeln!(out, "{value}").and_then(|()| out.flush()) {
        Ok(()) => status,
        Err(error) => {
            // Nobody reads stdout; stderr and the status are what is left.
            let _ = writeln!(
                io::stderr(),
                "culvert-cni: writing the answer failed: {error}"
            );
            ExitCode::FAILURE
        }
    }
}

fn run(version: &mut Version) -> Result<Option<Value>, CniError> {
    let environment = Environment::from_process()?;
    let command = environment.command();
    if command == Command::Version {
        return Ok(Some(version_answer()));
    }
    let conf = NetConf::parse(&stdin()?)?;
    *version = conf.version;
    validate(&environment, &conf)?;
    let request = CniRequest {
        environment,
        config: conf.to_value(),
    };
    let answer = ask(&conf, &request, conf.timeout);
    match (command, answer) {
        (Command::Add, Ok(result)) => Ok(Some(result)),
        (_, Ok(_)) => Ok(None),
        (Command::Del, Err(error)) if may_wait(&error) => {
            delete_later(&conf, &request, &error).map(|()| None)
        }
        (_, Err(ClientError::Refused(error))) => Err(error),
        (Command::Status, Err(error)) => Err(unreachable_daemon(code::NOT_AVAILABLE, &error)),
        (_, Err(error @ ClientError::TooLong(_))) => {
            Err(CniError::new(code::INVALID_CONFIG, error.to_string()))
        }
        (_, Err(error)) => Err(unreachable_daemon(code::TRY_AGAIN, &error)),
    }
}

/// Refuses what needs no daemon to be refused.
fn validate(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    match environment.command() {
        Command::Add => conf.wanted(environment).map(drop),
        Command::Check => match conf.prev_result()? {
            Some(_) => Ok(()),
            None => Err(CniError::new(
                code::INVALID_CONFIG,
                "CHECK needs the key \"prevResult\"",
            )),
        },
        command @ (Command::Status | Command::Gc) if conf.version < Version::V1_1_0 => {
            Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!(
                    "{command} needs cniVersion 1.1.0, not {}",
                    conf.version.as_str()
                ),
            ))
        }
        Command::Gc => conf.valid_attachments().map(drop),
        // DEL must succeed whatever else the configuration holds.
        Command::Del | Command::Status | Command::Version => Ok(()),
    }
}

/// Reads stdin to its end, at most [`MAX_CONFIG`] bytes and not for ever.
fn stdin() -> Result<Vec<u8>, CniError> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_CONFIG + 1).unwrap_or(u64::MAX);
        let read = io::stdin().lock().take(limit).read_to_end(&mut bytes);
        drop(sender.send(read.map(|_| bytes)));
    });
    let bytes = match receiver.recv_timeout(STDIN_PATIENCE) {
        Ok(read) => read.map_err(|error| {
            CniError::new(
                code::IO,
                "reading the network configuration from stdin failed",
            )
            .with_details(error.to_string())
        })?,
        Err(_) => {
            let msg = format!(
                "stdin was not closed within {} seconds",
                STDIN_PATIENCE.as_secs()
            );
            return Err(CniError::new(code::IO, msg));
        }
    };
    if bytes.len() > MAX_CONFIG {
        let msg = format!("the network configuration on stdin is longer than {MAX_CONFIG} bytes");
        return Err(CniError::new(code::DECODE, msg));
    }
    Ok(bytes)
}

fn ask(conf: &NetConf, request: &CniRequest, timeout: Duration) -> Result<Value, ClientError> {
    Client::connect(&conf.socket(), timeout)?.call(&Request::Cni(request.clone()))
}

/// Whether a deletion that was answered like this is left in the spool: the daemon is not
/// there, or has no time for it while it tells an appliance its tables.
fn may_wait(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(error) => error.code == code::TRY_AGAIN,
        _ => true,
    }
}

/// Leaves the deletion to the daemon's next start, or to the end of what keeps it. The
/// order of the steps is explained in [`culvert_host::spool`].
fn delete_later(conf: &NetConf, request: &CniRequest, why: &ClientError) -> Result<(), CniError> {
    let _ = writeln!(
        io::stderr(),
        "culvert-cni: the deletion waits in the spool: {why}"
    );
    let written = spool::write(&conf.spool_dir(), request).map_err(|error| {
        CniError::new(
            code::IO,
            "culvertd cannot be asked, and the deletion cannot be spooled",
        )
        .with_details(format!("{why}; {error}"))
    })?;
    match ask(conf, request, SECOND_TRY) {
        Ok(_) => {
            // A file that stays is harmless: the next ADD or start carries it out again.
            let _ = spool::remove(&written);
            Ok(())
        }
        Err(ClientError::Refused(error)) if error.code != code::TRY_AGAIN => {
            let _ = spool::remove(&written);
            Err(error)
        }
        Err(_) => Ok(()),
    }
}

fn unreachable_daemon(code: u32, error: &ClientError) -> CniError {
    CniError::new(code, error.to_string())
        .with_details("start culvertd on this node; its run_dir must be the configuration's runDir")
}
