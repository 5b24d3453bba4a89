//! The image in QEMU.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_core::MacAddr;
use culvert_host::appliance::{Arch, Console, Image, Logs, Machine, Serial, is_complaint};

use super::{LIMIT, Outside};
use crate::process::wait_for;

/// What a guest is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its NICs' MAC addresses, which can tell their roles.
    pub nics: Vec<MacAddr>,
    /// Lets time go by the number of instructions.
    pub icount: bool,
}

/// An image in QEMU with our ends of its wires; both go with it.
///
/// When it goes it panics if QEMU has found the image to do what no image should, and
/// prints what the image has logged if the test fails.
pub struct Guest {
    /// What the test holds.
    pub outside: Outside,
    /// When QEMU was started.
    pub started: Instant,
    arch: Arch,
    /// What decodes its logs.
    elf: PathBuf,
    qemu: Child,
}

impl Guest {
    /// Starts QEMU. The console is connected; nothing has been said yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(image: &Image, options: &Options) -> Result<Self> {
        let mut outside = Outside::new(options.nics.iter().copied())?;
        let file = |name: &str| outside.dir().join(name);
        let machine = Machine {
            nics: outside.nics(),
            console: Console::Socket(outside.console()),
            serial: Serial::File(file(SERIAL)),
            icount: options.icount,
            faults: Some(file(FAULTS)),
            // What is tried is what people boot.
            ..Machine::new(image.arch, &image.stripped)
        };
        let mut command = machine.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(file(COMPLAINTS))?);
        let started = Instant::now();
        let qemu = command.spawn();
        let qemu = qemu.with_context(|| format!("cannot start {}", image.arch.qemu()))?;
        let (arch, elf) = (image.arch, image.elf.clone());
        // From here on QEMU goes with the guest, whatever fails.
        let empty = Outside::new([])?;
        let mut guest = Self {
            outside: std::mem::replace(&mut outside, empty),
            started,
            arch,
            elf,
            qemu,
        };
        guest.outside.connect().with_context(|| guest.said())?;
        Ok(guest)
    }

    /// QEMU's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// Waits for QEMU's end and returns what the image ended it with.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn ended(&mut self) -> Result<u8> {
        let qemu = &mut self.qemu;
        let status = wait_for("QEMU's end", LIMIT, || Ok(qemu.try_wait()?))?;
        let complained = self.text(COMPLAINTS).lines().any(is_complaint);
        Ok(self.arch.image_status(status, complained))
    }

    /// Whether QEMU runs.
    ///
    /// # Errors
    /// Those of asking.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.qemu.try_wait()?.is_none())
    }

    /// Processor time that QEMU has taken so far, in steps of 10 ms.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        // User's and system's are fields 14 and 15; the first here is the third.
        let fields = rest.split_ascii_whitespace().skip(11).take(2);
        let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        // Of 1/100 s on every machine that runs tests.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// What the image has logged, decoded, and what QEMU has printed.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = fs::read(self.outside.dir().join(SERIAL)).unwrap_or_default();
        let logs = match Logs::read(&self.elf) {
            Ok(logs) => logs.text(&bytes),
            Err(error) => format!("{error}; undecoded: {}\n", bytes.escape_ascii()),
        };
        let (qemu, faults) = (self.text(COMPLAINTS), self.text(FAULTS));
        format!("the image's log:\n{logs}QEMU printed:\n{qemu}QEMU's guest_errors,unimp:\n{faults}")
    }

    /// What QEMU holds to be mistakes of the image.
    #[must_use]
    pub fn faults(&self) -> String {
        self.text(FAULTS)
    }

    fn text(&self, file: &str) -> String {
        let bytes = fs::read(self.outside.dir().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ends QEMU now and tells whether all was well with the image.
    ///
    /// # Errors
    /// What QEMU holds to be its mistakes.
    pub fn finish(&mut self) -> Result<()> {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        self.qemu.wait()?;
        match self.faults() {
            faults if faults.is_empty() => Ok(()),
            faults => bail!("{}: QEMU says of the image:\n{faults}", self.arch),
        }
    }
}

/// Files in the directory of [`Outside`].
const SERIAL: &str = "serial";
const FAULTS: &str = "faults";
const COMPLAINTS: &str = "qemu";

impl Drop for Guest {
    fn drop(&mut self) {
        let finished = self.finish();
        if thread::panicking() {
            eprintln!("--- {}: {}", self.arch, self.said());
        } else if let Err(error) = finished {
            panic!("{error:#}\n{}", self.said());
        }
    }
}
