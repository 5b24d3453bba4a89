//! What is on the wire, as tshark reads it.

use std::cell::Cell;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::node::UDP_PORT;
use crate::lab::{Namespace, eventually};

const FILE: &str = "capture.pcapng";

/// A capture at a device, ended when it is read or dropped.
pub(super) struct Capture {
    process: Child,
    dir: TempDir,
    ended: Cell<bool>,
}

impl Capture {
    pub(super) fn start(space: &Namespace, device: &str) -> Capture {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let process = Command::new("ip")
            .args(["netns", "exec", &space.name])
            .args(["dumpcap", "-q", "-B", "64", "-i", device, "-w"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It makes the file when it is ready.
        let ready = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
        eventually(|| ready().then_some(())).expect("dumpcap");
        Capture {
            process,
            dir,
            ended: Cell::new(false),
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
        tshark.arg("-r").arg(self.dir.path().join(FILE));
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
            // dumpcap reads the kernel's ring every 250 ms at most.
            thread::sleep(Duration::from_millis(300));
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
