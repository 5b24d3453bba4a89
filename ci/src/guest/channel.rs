//! Questions to a guest and its answers, over a socket that QEMU joins to a port
//! of the guest. `init.sh` is the other side and says what the messages are.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How much longer than its limit a command's answer may take: the guest is
/// emulated, on processors that do other work too.
const SLACK: Duration = Duration::from_secs(20);

/// What a command in the guest left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// As the shell's `$?` has it.
    pub(crate) status: u8,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// The lab's end of the port.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: BufReader<UnixStream>,
    last: u32,
    /// An answer did not come in time or was cut off: what comes next would be
    /// taken for another's answer.
    broken: bool,
}

impl Channel {
    /// Connects to QEMU's socket; `None` while it is not there.
    pub(crate) fn connect(socket: &Path) -> Result<Option<Self>> {
        match UnixStream::connect(socket) {
            Ok(stream) => Ok(Some(Self::new(stream))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot reach {}", socket.display())),
        }
    }

    fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            last: 0,
            broken: false,
        }
    }

    /// Whether the guest's first word has come; waits for it for `limit` at most.
    pub(crate) fn greeted(&mut self, limit: Duration) -> Result<bool> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        match self.stream.fill_buf() {
            Ok([]) => bail!("the guest's port was closed"),
            Ok(_) => self.answer(0).map(|_| true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the guest run a shell script with `input` as its standard input.
    ///
    /// # Errors
    /// When the guest does not answer, or killed the script because it took
    /// longer than `limit`.
    pub(crate) fn ask(&mut self, script: &str, input: &str, limit: Duration) -> Result<Answer> {
        ensure!(!self.broken, "the guest did not answer an earlier question");
        self.last += 1;
        let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        self.broken = true;
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(limit + SLACK))?;
        stream.set_write_timeout(Some(SLACK))?;
        let (first, second) = (script.len(), input.len());
        let head = format!("{} {} {first} {second}\n", self.last, seconds.max(1));
        let question = [head.as_bytes(), script.as_bytes(), input.as_bytes()].concat();
        stream.write_all(&question).context("asking the guest")?;
        let asked = std::time::Instant::now();
        let answer = self.answer(self.last).context("the guest's answer")?;
        self.broken = false;
        ensure!(
            answer.status != 137 || asked.elapsed() < limit,
            "it was killed after {seconds} s; it had printed: {} {}",
            String::from_utf8_lossy(&answer.stdout).trim(),
            String::from_utf8_lossy(&answer.stderr).trim()
        );
        Ok(answer)
    }

    fn answer(&mut self, number: u32) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the guest ended");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, status, stdout, stderr] = words[..] else {
            bail!("`{}` is no answer", line.trim());
        };
        ensure!(
            id.parse() == Ok(number),
            "answer {id} came for question {number}"
        );
        Ok(Answer {
            status: status.parse().context("a status")?,
            stdout: self.bytes(stdout)?,
            stderr: self.bytes(stderr)?,
        })
    }

    fn bytes(&mut self, count: &str) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count.parse().context("a number of bytes")?];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The arguments as one line for a shell.
pub(crate) fn shell_line(argv: &[&str]) -> String {
    let quoted = argv
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run;

    /// A channel whose guest has said this, and what it was asked.
    fn told(said: &str, asked: &str, limit: Duration) -> (Result<Answer>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said.as_bytes()).unwrap();
        let mut channel = Channel::new(ours);
        let answer = channel.ask(asked, "in", limit);
        drop(channel);
        let mut question = String::new();
        theirs.read_to_string(&mut question).unwrap();
        (answer, question)
    }

    #[test]
    fn an_answer_has_its_two_outputs() {
        let limit = Duration::from_millis(1500);
        let (answer, question) = told("1 3 4 2\nout\nno", "exit 3", limit);
        let wanted = Answer {
            status: 3,
            stdout: b"out\n".to_vec(),
            stderr: b"no".to_vec(),
        };
        assert_eq!(answer.unwrap(), wanted);
        assert_eq!(question, "1 2 6 2\nexit 3in");
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let limit = Duration::from_secs(1);
        for said in [
            "0 0 0 0\n",
            "2 0 0 0\n",
            "hello\n",
            "1 0 0\n",
            "1 0 0 x\n",
            "1 999 0 0\n",
        ] {
            let (answer, _) = told(said, "true", limit);
            assert!(answer.is_err(), "{said}: {answer:?}");
        }
    }

    #[test]
    fn a_script_that_was_killed_for_its_time_says_so() {
        let (answer, _) = told("1 137 4 0\nhalf", "true", Duration::ZERO);
        let error = answer.unwrap_err().to_string();
        assert!(
            error.contains("killed") && error.contains("half"),
            "{error}"
        );
        // Killed by something else.
        assert_eq!(told("1 137 0 0\n", "true", SLACK).0.unwrap().status, 137);
    }

    #[test]
    fn a_shell_gives_the_arguments_back() {
        let argv = [
            "printf",
            "%s|",
            "",
            "a b",
            "it's",
            "$HOME",
            "\\",
            "new\nline",
            "*",
        ];
        let line = shell_line(&argv);
        let printed = run(&["sh", "-c", &line], "").unwrap().stdout;
        assert_eq!(printed, "|a b|it's|$HOME|\\|new\nline|*|");
    }
}
