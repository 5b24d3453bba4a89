//! What is on the wire, as tshark reads it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::node::UDP_PORT;
use crate::lab::Namespace;

/// A capture at a device, ended when it is read or dropped.
pub(super) struct Capture {
    process: Child,
    file: tempfile::NamedTempFile,
    ended: std::cell::Cell<bool>,
}

impl Capture {
    pub(super) fn start(space: &Namespace, device: &str) -> Capture {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut process = Command::new("ip")
            .args(["netns", "exec", &space.name])
            .args([
                "tcpdump",
                "-Z",
                "root",
                "-i",
                device,
                "--immediate-mode",
                "-U",
                "-s",
                "0",
                "-B",
                "65536",
                "-w",
            ])
            .arg(file.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Capture {
            process,
            file,
            ended: std::cell::Cell::new(false),
        }
    }

    /// The first (outermost) value of each field in each packet that `filter` lets
    /// through.
    pub(super) fn fields(
        &self,
        options: &[&str],
        filter: &str,
        fields: &[&str],
    ) -> Vec<Vec<String>> {
        self.end();
        let mut tshark = Command::new("tshark");
        let vxlan = format!("udp.port=={UDP_PORT},vxlan");
        tshark.args(["-d", &vxlan]).args(options);
        tshark.arg("-r").arg(self.file.path());
        tshark.args(["-Y", filter, "-T", "fields", "-E", "occurrence=f"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect()
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            // What was sent last is still on its way into the file.
            thread::sleep(Duration::from_millis(200));
            let pid = Pid::from_raw(self.process.id().try_into().unwrap());
            kill(pid, Signal::SIGINT).unwrap();
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
        let _ = self.process.wait();
    }
}
