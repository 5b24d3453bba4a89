//! A node that is a machine of its own: Debian's kernel in QEMU, with tunnels that
//! the kernel of this machine may not have (ipip, sit, ip6_tunnel) and with
//! another version of everything else.
//!
//! The machine is emulated (TCG), so that it runs wherever the lab does. It is a
//! `q35`, whose HPET and ACPI timer give the guest its clock however busy this
//! machine is; the kernel does not get over the boot of a `microvm`, which has
//! neither, when a processor is not there at the moment that it calibrates.

mod channel;
mod image;
mod lab;
mod tunnel;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::culvert::tail;
use crate::lab::UNDERLAY;
use crate::process::{Output, wait_for};
use crate::site::Site;
use channel::{Channel, shell_line};
use image::{Image, find_program};

pub(crate) use lab::Place;
pub use tunnel::Encapsulation;

/// How long a guest may take to come up. Alone on a machine it takes two seconds.
const BOOT: Duration = Duration::from_secs(60);

/// Memory of a guest in MiB, beside twice the size of its initramfs, which is
/// there packed and unpacked for a moment. The kernel takes 50 of it.
const MEMORY: u64 = 96;

/// More of it for a guest with programs of its own, which may be daemons.
const FOR_PROGRAMS: u64 = 512;

/// Options of QEMU's network device that leave the guest nothing to offload.
const NO_OFFLOADS: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,\
                           guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off,\
                           host_ecn=off,host_ufo=off";

/// The state of what a guest and its wire hand to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Whole packets with their checksums, as between real machines.
    #[default]
    Finished,
    /// Unfinished checksums and packets of up to 64 KB, as virtual machines on
    /// one host exchange them. A guest's kernel nevertheless cuts and finishes
    /// what it sends through a tunnel: its virtio_net offloads no encapsulated
    /// packet.
    Unfinished,
}

/// What a guest is started with.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) checksums: Checksums,
    /// Programs of this machine that it has beside the usual ones.
    pub(crate) programs: &'a [PathBuf],
}

/// A machine of the lab. It goes with the lab.
#[derive(Debug)]
pub struct Guest {
    site: Arc<Site>,
    name: String,
    pid: u32,
    console: PathBuf,
    socket: PathBuf,
    channel: Mutex<Option<Channel>>,
}

impl Guest {
    /// Starts the machine, with its network device on the TAP `to-<name>` in the
    /// underlay's namespace. It is of use after [`Guest::wait_ready`].
    ///
    /// # Errors
    /// When its image cannot be made or QEMU cannot be started.
    pub(crate) fn start(site: &Arc<Site>, machine: &Machine) -> Result<Self> {
        let name = machine.name;
        let image = Image::prepare(machine.programs)?;
        let console = site.dir().join(format!("logs/console-{name}.log"));
        let socket = site.dir().join(format!("{name}.sock"));
        let qemu = find_program("qemu-system-x86_64")?.display().to_string();
        let words = command_line(machine, &image, &socket);
        let words = words.iter().map(String::as_str);
        let argv: Vec<&str> = [&*qemu].into_iter().chain(words).collect();
        let pid = site.background(UNDERLAY, &argv, &console)?;
        Ok(Self {
            site: Arc::clone(site),
            name: name.to_owned(),
            pid,
            console,
            socket,
            channel: Mutex::new(None),
        })
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute; with the end of what it
    /// said on its console.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let what = format!("guest {} ready", self.name);
        let ready = wait_for(&what, BOOT, || self.is_ready().map(|is| is.then_some(())));
        ready.with_context(|| format!("its console:\n{}", self.console_tail(20)))
    }

    fn is_ready(&self) -> Result<bool> {
        if let Some(status) = self.site.ended(self.pid)? {
            bail!("guest {}: QEMU ended with {status}", self.name);
        }
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if channel.is_none() {
            *channel = Channel::connect(&self.socket)?;
        }
        let Some(channel) = channel.as_mut() else {
            return Ok(false);
        };
        channel.greeted(Duration::from_millis(100))
    }

    /// The last lines of what the guest's kernel said, or those from its panic on.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        let all = tail(&self.console, usize::MAX);
        let Some(panic) = all.find("Kernel panic") else {
            return tail(&self.console, lines);
        };
        let from: Vec<_> = all[panic..].lines().take(lines).collect();
        from.join("\n")
    }

    /// QEMU's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs a command in the guest, in one of its network namespaces or (`None`)
    /// in the first, to its end or for `limit` at most, in whole seconds. One
    /// command runs at a time.
    ///
    /// # Errors
    /// When the guest does not answer or the command takes too long (it is killed
    /// then). A command that fails is no error here, see [`Output::success`].
    pub fn exec(&self, namespace: Option<&str>, argv: &[&str], limit: Duration) -> Result<Output> {
        let within = match namespace {
            Some(namespace) => [&["ip", "netns", "exec", namespace], argv].concat(),
            None => argv.to_vec(),
        };
        self.ask(&argv.join(" "), &shell_line(&within), ("", limit))
    }

    /// Runs a shell script in the guest. What it leaves in the
    /// background goes on.
    ///
    /// # Errors
    /// As [`Guest::exec`].
    pub fn shell(&self, script: &str, limit: Duration) -> Result<Output> {
        self.ask(script, script, ("", limit))
    }

    /// Runs a short configuration command with `input` on its standard input and
    /// demands that it succeeds.
    pub(crate) fn run(&self, argv: &[&str], input: &str) -> Result<Output> {
        let limit = Duration::from_secs(20);
        let name = argv.join(" ");
        let output = self.ask(&name, &shell_line(argv), (input, limit))?;
        output.success().with_context(|| format!("given: {input}"))
    }

    fn ask(&self, name: &str, script: &str, (input, limit): (&str, Duration)) -> Result<Output> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channel.as_mut().context("the guest is not up")?;
        let answer = channel.ask(script, input, limit).with_context(|| {
            let console = self.console_tail(5);
            format!("`{name}` in guest {}; its console:\n{console}\n", self.name)
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output {
            command: name.to_owned(),
            status: ExitStatus::from_raw(i32::from(answer.status) << 8),
            stdout: text(&answer.stdout),
            stderr: text(&answer.stderr),
        })
    }
}

/// QEMU's arguments.
fn command_line(machine: &Machine, image: &Image, socket: &Path) -> Vec<String> {
    let Machine { name, mac, mtu, .. } = machine;
    let offloads = match machine.checksums {
        Checksums::Finished => format!(",{NO_OFFLOADS}"),
        Checksums::Unfinished => String::new(),
    };
    // Code that QEMU has translated is kept in 64 MiB, not in up to a gigabyte.
    let fixed = "-M q35,usb=off,sata=off,smbus=off -accel tcg,tb-size=64 -cpu max \
                 -nodefaults -no-user-config -no-reboot -display none -serial stdio";
    let mut words: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let more = match machine.programs {
        [] => 0,
        _ => FOR_PROGRAMS,
    };
    for (option, value) in [
        ("-m", (MEMORY + more + 2 * (image.size >> 20)).to_string()),
        ("-kernel", image.kernel.display().to_string()),
        ("-initrd", image.initramfs.display().to_string()),
        // A panic becomes a reset, and that (-no-reboot) QEMU's end. The kernel's
        // check that timer interrupts come in time fails on a busy machine.
        (
            "-append",
            "console=ttyS0 quiet panic=-1 reboot=t no_timer_check".to_owned(),
        ),
        ("-device", "virtio-serial-pci".to_owned()),
        (
            "-chardev",
            format!("socket,id=lab,path={},server=on,wait=off", socket.display()),
        ),
        ("-device", "virtserialport,chardev=lab,name=lab".to_owned()),
        (
            "-netdev",
            format!("tap,id=eth0,ifname=to-{name},script=no,downscript=no,vhost=off"),
        ),
        (
            "-device",
            format!("virtio-net-pci,netdev=eth0,mac={mac},host_mtu={mtu},romfile={offloads}"),
        ),
    ] {
        words.extend([option.to_owned(), value]);
    }
    words
}
