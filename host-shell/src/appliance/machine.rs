//! What QEMU gives the image: processor, memory, NICs, console and serial line.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;

use culvert_core::channel::Role;
use culvert_core::{MacAddr, PortId};

use super::{Arch, Error};

/// A machine for an image. Nothing of it is shared with the host but what is named
/// here, and QEMU needs no privilege unless a NIC is a TAP.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The processor's architecture.
    pub arch: Arch,
    /// The ELF file.
    pub image: PathBuf,
    /// Its NICs. Their order is not that in which the image finds them.
    pub nics: Vec<Nic>,
    /// The other end of the control channel.
    pub console: Console,
    /// The other end of the serial line, where the image logs to.
    pub serial: Serial,
    /// Memory in MiB; ignored for Cortex-M4, whose board has its own.
    pub memory: u32,
    /// Lets time go by the number of instructions, 1 ns each, so that counts of them
    /// are the same every time.
    pub icount: bool,
    /// Has the host's processor run the image, which must be of its architecture.
    pub kvm: bool,
    /// A file for what QEMU holds to be mistakes of the image; it stays empty.
    pub faults: Option<PathBuf>,
}

/// A NIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nic {
    /// Its MAC address, which can tell its role: [`Role::mac`].
    pub mac: MacAddr,
    /// What it is connected to.
    pub backend: Backend,
}

/// What a NIC is connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// A TAP of the network namespace that QEMU is started in.
    Tap(String),
    /// Unix datagram sockets, a frame in each datagram.
    Datagrams {
        /// The socket that QEMU makes and receives by.
        local: PathBuf,
        /// The one that it sends to, which must be there before.
        remote: PathBuf,
    },
    /// Nothing: what is sent is lost.
    Nothing,
}

/// The other end of the control channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Console {
    /// A Unix stream socket that QEMU makes, for one host at a time.
    Socket(PathBuf),
    /// Nobody.
    Nothing,
}

/// The other end of the serial line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Serial {
    /// A file that QEMU appends to.
    File(PathBuf),
    /// QEMU's standard output.
    Stdout,
}

impl Machine {
    /// Memory of a machine in MiB, unless somebody wants another.
    pub const MEMORY: u32 = 64;

    /// A machine without NICs, with nobody at its console.
    pub fn new(arch: Arch, image: impl Into<PathBuf>) -> Self {
        Machine {
            arch,
            image: image.into(),
            nics: Vec::new(),
            console: Console::Nothing,
            serial: Serial::Stdout,
            memory: Self::MEMORY,
            icount: false,
            kvm: false,
            faults: None,
        }
    }

    /// QEMU's command line. What the process needs beyond it (standard output, a
    /// namespace) is the caller's.
    ///
    /// # Errors
    /// [`Error::TooManyNics`].
    pub fn command(&self) -> Result<Command, Error> {
        let (arch, nics) = (self.arch, self.nics.len());
        if nics > arch.max_nics() {
            return Err(Error::TooManyNics { arch, nics });
        }
        let mut command = Command::new(arch.qemu());
        command.args(self.board());
        command.args(["-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-monitor", "none"]);
        command.arg("-kernel").arg(&self.image);
        if self.icount {
            command.args(["-icount", "shift=0"]);
        }
        if let Some(faults) = &self.faults {
            command.args(["-d", "guest_errors,unimp", "-D"]).arg(faults);
        }
        let serial = match &self.serial {
            Serial::File(path) => path,
            Serial::Stdout => Path::new("/dev/stdout"),
        };
        option(&mut command, "-chardev", "file,id=serial,append=on")
            .path("path", serial)
            .done();
        command.args(["-serial", "chardev:serial"]);
        self.add_console(&mut command);
        for (nic, number) in self.nics.iter().zip(0..) {
            self.add_nic(&mut command, nic, number);
        }
        Ok(command)
    }

    /// The machine itself: processor, memory, and how the image ends it.
    fn board(&self) -> Vec<String> {
        let memory = format!("{}M", self.memory);
        // A way for the image to end QEMU with a status of its choice.
        let semihosting = "enable=on,target=native";
        let words: &[&str] = match self.arch {
            Arch::Aarch64 => &[
                if self.kvm {
                    // The image knows no other; where the host has none QEMU says so.
                    "-M virt,gic-version=2,accel=kvm"
                } else {
                    "-M virt,gic-version=2,accel=tcg"
                },
                if self.kvm {
                    "-cpu host"
                } else {
                    "-cpu cortex-a72"
                },
                "-global virtio-mmio.force-legacy=false",
                "-semihosting-config",
                semihosting,
                "-m",
                &memory,
            ],
            Arch::X86_64 => &[
                // Without the second I/O APIC the virtio slots are where the image
                // looks for them.
                "-M",
                if self.kvm { MICROVM_KVM } else { MICROVM },
                "-cpu",
                if self.kvm { "host" } else { "max" },
                "-global virtio-mmio.force-legacy=false",
                "-device isa-debug-exit,iobase=0xf4,iosize=4",
                "-m",
                &memory,
            ],
            Arch::CortexM4 => &[
                "-M mps2-an386 -cpu cortex-m4",
                "-semihosting-config",
                semihosting,
            ],
        };
        let words = words.iter().flat_map(|words| words.split(' '));
        words.map(str::to_owned).collect()
    }

    fn add_console(&self, command: &mut Command) {
        if self.arch != Arch::CortexM4 {
            command.args(["-object", "rng-random,id=random,filename=/dev/urandom"]);
            command.args(["-device", "virtio-rng-device,rng=random"]);
        }
        let Console::Socket(socket) = &self.console else {
            return;
        };
        let chardev = "socket,id=console,server=on,wait=off";
        option(command, "-chardev", chardev)
            .path("path", socket)
            .done();
        match self.arch {
            // The second of the board's serial lines.
            Arch::CortexM4 => {
                command.args(["-serial", "chardev:console"]);
            }
            Arch::Aarch64 | Arch::X86_64 => {
                command.args(["-device", "virtio-serial-device"]);
                command.args(["-device", "virtconsole,chardev=console"]);
            }
        }
    }

    fn add_nic(&self, command: &mut Command, nic: &Nic, number: usize) {
        let mac = nic.mac;
        match &nic.backend {
            Backend::Tap(name) => {
                let start = format!("tap,id=n{number},script=no,downscript=no,vhost=off");
                option(command, "-netdev", &start).path("ifname", Path::new(name))
            }
            Backend::Datagrams { local, remote } => {
                option(command, "-netdev", &format!("dgram,id=n{number}"))
                    .fixed(",local.type=unix,remote.type=unix")
                    .path("local.path", local)
                    .path("remote.path", remote)
            }
            Backend::Nothing => option(command, "-netdev", &format!("hubport,id=n{number}"))
                .fixed(&format!(",hubid={number}")),
        }
        .done();
        match self.arch {
            Arch::CortexM4 => {
                let net = format!("nic,model=lan9118,netdev=n{number},macaddr={mac}");
                command.args(["-net", &net]);
            }
            Arch::Aarch64 | Arch::X86_64 => {
                let device = format!("virtio-net-device,netdev=n{number},mac={mac}");
                command.args(["-device", &device]);
            }
        }
    }
}

const MICROVM: &str = "microvm,ioapic2=off,pic=off,pit=off,rtc=off,accel=tcg";
const MICROVM_KVM: &str = "microvm,ioapic2=off,pic=off,pit=off,rtc=off,accel=kvm";

/// An option of several parts.
fn option<'c>(command: &'c mut Command, name: &str, start: &str) -> Parts<'c> {
    let parts = OsString::from(start);
    Parts {
        command: command.arg(name),
        parts,
    }
}

struct Parts<'c> {
    command: &'c mut Command,
    parts: OsString,
}

impl Parts<'_> {
    fn fixed(mut self, text: &str) -> Self {
        self.parts.push(text);
        self
    }

    /// A part whose value may have commas, which QEMU wants doubled.
    fn path(mut self, name: &str, value: &Path) -> Self {
        let value = value.to_string_lossy().replace(',', ",,");
        self.parts.push(format!(",{name}={value}"));
        self
    }

    fn done(self) {
        self.command.arg(self.parts);
    }
}

impl Arch {
    /// What an image ended QEMU with, from the status that QEMU ended with. On x86 the
    /// way out has room for 7 bits, and what QEMU ends with when it cannot start
    /// looks like 0 there: `complained` tells whether it has printed a complaint
    /// ([`is_complaint`]). A signal's
    /// number is added to 128, as a shell does.
    pub fn image_status(self, status: ExitStatus, complained: bool) -> u8 {
        use std::os::unix::process::ExitStatusExt;
        let code = match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, signal) => {
                let signal = signal.and_then(|signal| u8::try_from(signal).ok());
                return 128 + signal.unwrap_or(0) % 128;
            }
        };
        match self {
            Arch::X86_64 if code == 1 && complained => 1,
            // The device makes it odd.
            Arch::X86_64 if code % 2 == 1 => code >> 1,
            _ => code,
        }
    }
}

/// Whether a line that QEMU printed says that something is wrong, and not only odd.
pub fn is_complaint(line: &str) -> bool {
    !line.trim().is_empty() && !line.contains(": warning: ")
}

impl Nic {
    /// A NIC whose MAC address tells its role.
    pub fn new(role: Role, backend: Backend) -> Self {
        let mac = role.mac();
        Nic { mac, backend }
    }
}

/// `ROLE=BACKEND`, as the command line has it.
impl FromStr for Nic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, backend) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} is not ROLE=BACKEND, for example 7=tap:pod7 or trunk:0=tap:pods")
        })?;
        Ok(Nic {
            mac: parse_mac(role)?,
            backend: backend.parse()?,
        })
    }
}

/// The MAC address for a role: a port's number, `trunk:BASE`, `management`, or the
/// address itself.
fn parse_mac(role: &str) -> Result<MacAddr, String> {
    let unknown = || {
        format!("{role:?} is no role: a port's number, trunk:BASE, management, or a MAC address")
    };
    if let Ok(mac) = role.parse() {
        return Ok(mac);
    }
    let role = match role.split_once(':') {
        Some(("trunk", base)) => Role::Trunk {
            base: base.parse().map_err(|_| unknown())?,
        },
        None if role == "management" => Role::Management,
        _ => Role::Port(PortId(role.parse().map_err(|_| unknown())?)),
    };
    Ok(role.mac())
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let backend = match text.split_once(':') {
            Some(("tap", name)) if !name.is_empty() => Some(Backend::Tap(name.to_owned())),
            Some(("dgram", paths)) => paths.split_once(',').map(|(local, remote)| {
                let (local, remote) = (local.into(), remote.into());
                Backend::Datagrams { local, remote }
            }),
            None if text == "none" => Some(Backend::Nothing),
            _ => None,
        };
        backend.ok_or_else(|| {
            format!("{text:?} is not tap:INTERFACE, dgram:LOCAL,REMOTE (sockets' paths) or none")
        })
    }
}

/// A command line for people, to be pasted into a shell.
pub(super) struct Shown<'c>(pub(super) &'c Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.get_program().to_string_lossy())?;
        for word in self.0.get_args() {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+".contains(c);
            match !word.is_empty() && word.chars().all(plain) {
                true => write!(f, " {word}")?,
                false => write!(f, " '{}'", word.replace('\'', r"'\''"))?,
            }
        }
        Ok(())
    }
}

impl Machine {
    /// The command line as text, to be pasted into a shell.
    ///
    /// # Errors
    /// As [`Machine::command`].
    pub fn shown(&self) -> Result<String, Error> {
        Ok(Shown(&self.command()?).to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn mac(text: &str) -> MacAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nics_are_told_by_role_or_address() {
        let tap = Backend::Tap("t0".to_owned());
        for (text, address) in [
            ("7=tap:t0", "02:63:76:01:00:07"),
            ("trunk:4096=tap:t0", "02:63:76:02:10:00"),
            ("management=tap:t0", "02:63:76:03:00:00"),
            ("0a:00:00:00:00:01=tap:t0", "0a:00:00:00:00:01"),
        ] {
            let backend = tap.clone();
            let nic = Nic {
                mac: mac(address),
                backend,
            };
            assert_eq!(text.parse(), Ok(nic), "{text}");
        }
        let nic: Nic = "1=dgram:/a/b,/c=d".parse().unwrap();
        let (local, remote) = ("/a/b".into(), "/c=d".into());
        assert_eq!(nic.backend, Backend::Datagrams { local, remote });
        for (text, wanted) in [
            ("7", "ROLE=BACKEND"),
            ("65536=tap:t", "65536"),
            ("trunk=tap:t", "trunk:BASE"),
            ("1=tap:", "tap:INTERFACE"),
            ("1=dgram:/a", "dgram:LOCAL,REMOTE"),
            ("1=veth:a", "tap:INTERFACE"),
        ] {
            let error = text.parse::<Nic>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn more_nics_than_there_is_room_for_are_refused() {
        for arch in Arch::ALL {
            let mut machine = Machine::new(arch, "image");
            let nic = Nic::new(Role::Management, Backend::Nothing);
            machine.nics = vec![nic; arch.max_nics()];
            assert!(machine.command().is_ok());
            machine.nics.push(machine.nics[0].clone());
            let error = machine.command().unwrap_err().to_string();
            assert!(error.contains(&format!("{arch} has room for")), "{error}");
        }
    }

    #[test]
    fn the_image_gets_the_interrupt_controller_that_it_knows() {
        for kvm in [false, true] {
            let machine = Machine {
                kvm,
                ..Machine::new(Arch::Aarch64, "image")
            };
            let text = machine.shown().unwrap();
            assert!(text.contains("gic-version=2"), "{text}");
        }
    }

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        let mut machine = Machine::new(Arch::Aarch64, "/it's here/image");
        machine.console = Console::Socket("/a,b".into());
        let text = machine.shown().unwrap();
        assert!(text.contains(r"-kernel '/it'\''s here/image'"), "{text}");
        assert!(text.contains("path=/a,,b"), "{text}");
    }

    #[test]
    fn the_images_status_is_found_in_qemus() {
        let of = |arch: Arch, code: i32, complained| {
            arch.image_status(ExitStatus::from_raw(code << 8), complained)
        };
        assert_eq!(of(Arch::Aarch64, 42, false), 42);
        assert_eq!(of(Arch::X86_64, 42 << 1 | 1, true), 42);
        assert_eq!(of(Arch::X86_64, 1, false), 0);
        assert_eq!(of(Arch::X86_64, 1, true), 1);
        assert_eq!(of(Arch::X86_64, 0, false), 0);
        assert!(is_complaint("qemu: could not open kernel file 'x'"));
        assert!(!is_complaint(
            "qemu-system-arm: warning: nic lan9118.0 has no peer"
        ));
        assert!(!is_complaint(""));
        for arch in Arch::ALL {
            assert_eq!(arch.image_status(ExitStatus::from_raw(9), false), 137);
        }
    }
}
