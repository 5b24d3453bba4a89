//! The machine that was measured on.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::process::run;

/// How long the machine is watched with nothing to do.
const WATCH: Duration = Duration::from_secs(2);

/// What the machine is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor's name.
    pub processor: String,
    /// How many processors the system has.
    pub processors: u32,
    /// Gigabytes of memory.
    pub memory: f64,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the distribution.
    pub system: String,
    /// What runs it, if that is no bare machine: a hypervisor's name.
    pub hypervisor: String,
    /// What was measured: the commit, with `-dirty` when files were changed.
    pub commit: String,
    /// Part of the processors' time that other work took before the first round, 0 to 1.
    pub background: f64,
}

impl Machine {
    /// Describes this machine; watches it for two seconds, all setups being up and idle.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn describe() -> Result<Self> {
        let cpu = Cpu::read()?;
        thread::sleep(WATCH);
        let work = cpu.since()?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kilobytes: f64 = field(&memory, "MemTotal")
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0.0);
        let hypervisor = run(&["systemd-detect-virt", "--vm"], "").map(|output| output.stdout);
        let git = |args: &[&str]| run(args, "").map(|output| output.stdout.trim().to_owned());
        let commit = git(&["git", "describe", "--always", "--dirty", "--exclude=*"]);
        let virtual_machine = field(&cpuinfo, "flags").contains(" hypervisor ");
        Ok(Self {
            processor: field(&cpuinfo, "model name").to_owned(),
            processors: work.processors,
            memory: kilobytes / 1e6,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: release(&read("/etc/os-release")),
            hypervisor: match (hypervisor, virtual_machine) {
                (Ok(name), _) if name.trim() != "none" => name.trim().to_owned(),
                (_, true) => "a virtual machine".to_owned(),
                _ => String::new(),
            },
            commit: commit.unwrap_or_else(|_| "unknown".into()),
            background: work.share(),
        })
    }

    /// Whether ratios of the other machine can be expected here.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let what = |machine: &Self| {
            (
                machine.processor.clone(),
                machine.processors,
                machine.kernel.clone(),
            )
        };
        what(self) == what(other)
    }
}

/// The value of the first line `name: value`.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    text.lines()
        .find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then_some(value.trim())
        })
        .unwrap_or_default()
}

fn release(text: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_names_are_found() {
        let text = "processor\t: 0\nmodel name\t: A CPU\nmodel name\t: Another\n";
        assert_eq!(field(text, "model name"), "A CPU");
        assert_eq!(field(text, "model"), "");
        assert_eq!(release("ID=x\nPRETTY_NAME=\"Some Linux\"\n"), "Some Linux");
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::describe().unwrap();
        assert!(
            machine.processors > 0 && machine.memory > 0.1,
            "{machine:?}"
        );
        assert!(machine.is_like(&machine.clone()));
        let other = Machine {
            kernel: "0".into(),
            ..machine.clone()
        };
        assert!(!machine.is_like(&other));
    }
}
