//! Processes: who they are beyond a number, and how to run one within a time.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(4);

/// A process by its number and the time it was started, so that a number that
/// was given to another process is not taken for the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` when there is none or it
    /// is dead and only waits to be reaped.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start = start_time(&stat)?;
        Some(Self { pid, start })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal` when this very process still runs; does nothing otherwise.
    pub fn signal(self, signal: Signal) {
        if let (true, Ok(pid)) = (self.is_alive(), i32::try_from(self.pid)) {
            // It may end between the question and the signal: then all is well too.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Start time from the text of `/proc/<pid>/stat`; `None` for a zombie.
fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The output if the command succeeded.
    ///
    /// # Errors
    /// Names the command, its status and what it printed.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = [self.stderr.trim(), self.stdout.trim()];
        bail!(
            "`{}` ended with {}: {}",
            self.command,
            self.status,
            said.join("\n").trim()
        )
    }
}

/// A command in a process group of its own, so that Ctrl-C at a terminal
/// reaches the lab alone and the lab ends its children in order.
pub(crate) fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).process_group(0);
    command
}

/// Runs a short configuration command with `input` on its standard input.
///
/// # Errors
/// When it cannot be started or fails; the message holds what it printed.
pub fn run(argv: &[&str], input: &str) -> Result<Output> {
    let mut child = command(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}` (is it installed?)", argv[0]))?;
    let pipes = Pipes::take(&mut child, input);
    let status = child.wait()?;
    pipes.finish(argv.join(" "), status).success()
}

/// Threads that feed and drain a child's pipes, so that neither side stalls.
pub(crate) struct Pipes {
    input: thread::JoinHandle<()>,
    stdout: thread::JoinHandle<String>,
    stderr: thread::JoinHandle<String>,
}

impl Pipes {
    /// Takes the child's three pipes (those that are there).
    pub(crate) fn take(child: &mut Child, input: &str) -> Self {
        let (stdin, input) = (child.stdin.take(), input.to_owned());
        Self {
            input: thread::spawn(move || {
                if let Some(mut pipe) = stdin {
                    // A child that does not read its input is no error of ours.
                    let _ = pipe.write_all(input.as_bytes());
                }
            }),
            stdout: drain(child.stdout.take()),
            stderr: drain(child.stderr.take()),
        }
    }

    /// Waits for the ends of the pipes.
    pub(crate) fn finish(self, command: String, status: ExitStatus) -> Output {
        let _ = self.input.join();
        Output {
            command,
            status,
            stdout: self.stdout.join().unwrap_or_default(),
            stderr: self.stderr.join().unwrap_or_default(),
        }
    }
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Asks `question` again and again until it answers something or `limit` has passed.
///
/// # Errors
/// Those of `question`, or that `what` did not come about in time.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {:.1} s", limit.as_secs_f64());
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_odd_names() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time(&stat.replace(") S ", ") Z ")), None);
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = ProcessId {
            start: me.start + 1,
            ..me
        };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL); // would end this test
    }

    #[test]
    fn a_failing_command_says_what_it_printed() {
        let error = run(&["sh", "-c", "cat; echo broken >&2; exit 3"], "given").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("broken") && text.contains("given") && text.contains('3'),
            "{text}"
        );
    }

    #[test]
    fn a_wait_gives_up() {
        let limit = Duration::from_millis(20);
        let error = wait_for("the moon", limit, || Ok(None::<()>)).unwrap_err();
        assert!(error.to_string().starts_with("the moon"), "{error}");
    }
}
