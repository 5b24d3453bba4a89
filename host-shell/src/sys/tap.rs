//! TAP devices: a frame written comes out of the interface, and the other way round.
//!
//! Every frame has a [`super::vnet::VirtioNetHeader`] before it, in both directions, or a
//! [`TunnelNetHeader`] where tunnels' offloads were asked for.

mod queues;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::vnet::{TunnelNetHeader, VirtioNetHeader};

const CONTROL_DEVICE: &str = "/dev/net/tun";
/// `IFNAMSIZ`: a name and its terminating zero.
const NAME_SIZE: usize = 16;

/// Why a TAP device could not be made, attached or set up.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is no valid interface name.
    #[error(
        "{name:?} is no interface name: it must have 1 to 15 bytes, be neither \".\" nor \"..\", \
         and have no \"/\", \":\", \"%\", control character or white space"
    )]
    InvalidName {
        /// The name as it was given.
        name: String,
    },
    /// The control device is missing or may not be opened.
    #[error("cannot open {CONTROL_DEVICE}: {source}{}", control_hint(source))]
    ControlDevice {
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface of that name exists already.
    #[error("cannot create the TAP device \"{name}\": the name is taken by {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// What has it.
        holder: Holder,
    },
    /// There is no interface of that name to attach to.
    #[error("cannot attach to the TAP device \"{name}\": there is no such interface")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The interface is no persistent TAP device.
    #[error("cannot attach to \"{name}\": it is {holder}")]
    NotATap {
        /// The name.
        name: String,
        /// What it is.
        holder: Holder,
    },
    /// Another open descriptor, of this or another process, holds the device. Of one
    /// with several queues the kernel does not tell.
    #[error(
        "cannot attach to the TAP device \"{name}\": another process or descriptor has it open"
    )]
    InUse {
        /// The name.
        name: String,
    },
    /// The descriptor that was handed over belongs to no TAP device with a virtio-net header.
    #[error("the descriptor belongs to no TAP device with a virtio-net header: {reason}")]
    NotATapDescriptor {
        /// What it lacks.
        reason: String,
    },
    /// A step of setting the device up failed.
    #[error("cannot {action} of the TAP device \"{name}\": {source}")]
    Setup {
        /// The name.
        name: String,
        /// What was being done.
        action: &'static str,
        /// What the kernel said; `EPERM` without CAP_NET_ADMIN.
        source: io::Error,
    },
}

/// What has an interface name, as far as the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A TAP device, persistent or held by some process.
    Tap,
    /// A TUN device (IP packets, no Ethernet).
    Tun,
    /// An interface of another driver.
    Other {
        /// The driver's name, such as `veth`.
        driver: String,
    },
    /// An interface that does not tell its driver, as the loopback.
    Unknown,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tap => f.write_str("another TAP device"),
            Self::Tun => f.write_str("a TUN device"),
            Self::Other { driver } => write!(f, "an interface of the driver \"{driver}\""),
            Self::Unknown => f.write_str("an interface that is no TAP device"),
        }
    }
}

fn control_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (load the kernel module tun)",
        io::ErrorKind::PermissionDenied => " (run as root)",
        _ => "",
    }
}

/// What the TAP may leave to the reader of its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOffloads(libc::c_uint);

impl TapOffloads {
    /// Nothing: frames read have finished checksums and fit the MTU.
    pub const NONE: Self = Self(0);
    /// Frames read may have an unfinished checksum
    /// ([`super::vnet::VnetChecksum::Partial`]); they fit the MTU.
    pub const CHECKSUM: Self = Self(libc::TUN_F_CSUM);
    /// As [`TapOffloads::CHECKSUM`], and frames read may be TCP super-frames of up to
    /// 64 KB, which the reader has to cut.
    pub const TCP: Self =
        Self(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN);
    /// As [`TapOffloads::TCP`], and UDP super-frames where the kernel has them (Linux 6.2).
    pub const ALL: Self = Self(Self::TCP.0 | USO4 | USO6);
    /// Frames read may be super-frames of all kinds, also inside of a UDP tunnel, whose
    /// outer checksum may be one that the reader has to make. Frames have a
    /// [`super::vnet::TunnelNetHeader`] then. From Linux 6.17 on; older ones say `EINVAL`.
    pub const TUNNEL: Self =
        Self(Self::TCP.0 | USO4 | USO6 | UDP_TUNNEL_GSO | UDP_TUNNEL_GSO_CHECKSUM);

    /// Octets of the header that frames have.
    const fn header_len(self) -> usize {
        match self.0 & UDP_TUNNEL_GSO {
            0 => VirtioNetHeader::LEN,
            _ => TunnelNetHeader::LEN,
        }
    }
}

/// How a TAP device is set up; the same at creation and at attaching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// What the kernel may leave to the reader of frames.
    pub offloads: TapOffloads,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            offloads: TapOffloads::ALL,
        }
    }
}

/// An open TAP device, or one queue of it: non-blocking, closed on exec.
///
/// Dropping it deletes the interface unless it is persistent
/// ([`Tap::set_persist`]). Closing can take milliseconds: do it on a thread that
/// moves no packets.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

/// `struct ifreq` as the TUN ioctls use it, every byte initialised.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: u16,
    rest: [u8; 22],
}

/// `struct ifreq` with a pointer, for `SIOCETHTOOL`.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; NAME_SIZE],
    data: *mut DriverInfo,
    rest: [u8; 16],
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

const ETHTOOL_GDRVINFO: u32 = 3;

/// `TUN_F_USO4`, `TUN_F_USO6` and the tunnels' bits of `<linux/if_tun.h>`.
const USO4: libc::c_uint = 0x20;
const USO6: libc::c_uint = 0x40;
const UDP_TUNNEL_GSO: libc::c_uint = 0x80;
const UDP_TUNNEL_GSO_CHECKSUM: libc::c_uint = 0x100;

const _: () = assert!(size_of::<InterfaceRequest>() >= size_of::<libc::ifreq>());
const _: () = assert!(size_of::<EthtoolRequest>() >= size_of::<libc::ifreq>());
const _: () = assert!(size_of::<DriverInfo>() == 196);

/// The ioctls, which nix makes public functions of.
mod ioctl {
    use super::{EthtoolRequest, InterfaceRequest};

    nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, InterfaceRequest);
    nix::ioctl_read_bad!(tun_get_iff, libc::TUNGETIFF, InterfaceRequest);
    nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_little_endian, libc::TUNSETVNETLE, libc::c_int);
    // Takes its bits as the argument itself.
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, EthtoolRequest);
}

impl InterfaceRequest {
    const EMPTY: Self = Self {
        name: [0; NAME_SIZE],
        flags: 0,
        rest: [0; 22],
    };

    fn has(&self, flag: libc::c_int) -> bool {
        libc::c_int::from(self.flags) & flag != 0
    }
}

impl Tap {
    /// Creates the interface `name` in the calling thread's network namespace.
    ///
    /// The interface is down, has a random MAC, and goes away when the returned
    /// value is dropped.
    ///
    /// # Errors
    /// [`TapError::NameTaken`] when any interface of that name exists, be it a TAP
    /// device or not; see [`TapError`] for the others.
    pub fn create(name: &str, options: TapOptions) -> Result<Self, TapError> {
        Self::create_as(name, options, 0)
    }

    fn create_as(name: &str, options: TapOptions, flags: libc::c_int) -> Result<Self, TapError> {
        let fd = open_control()?;
        // IFF_TUN_EXCL: without it an existing device would be attached to.
        match set_interface(&fd, name, libc::IFF_TUN_EXCL | flags)? {
            Ok(()) => {}
            Err(Errno::EBUSY | Errno::EEXIST) => {
                return Err(TapError::NameTaken {
                    name: name.to_owned(),
                    holder: holder_of(name).unwrap_or(Holder::Unknown),
                });
            }
            Err(errno) => return Err(setup_error(name, "make the interface", errno)),
        }
        let tap = Self {
            fd,
            name: name.to_owned(),
        };
        tap.configure(options)?;
        Ok(tap)
    }

    /// Attaches to the persistent TAP device `name` in the calling thread's
    /// network namespace; of one with several queues, to one queue.
    ///
    /// # Errors
    /// [`TapError::NotFound`], [`TapError::NotATap`] or [`TapError::InUse`]; no
    /// interface is ever created. See [`TapError`] for the others.
    pub fn attach(name: &str, options: TapOptions) -> Result<Self, TapError> {
        let name_owned = || name.to_owned();
        interface_name(name)?;
        match holder_of(name) {
            None => return Err(TapError::NotFound { name: name_owned() }),
            Some(Holder::Tap) => {}
            Some(holder) => {
                return Err(TapError::NotATap {
                    name: name_owned(),
                    holder,
                });
            }
        }
        let fd = open_control()?;
        let attached = match set_interface(&fd, name, 0)? {
            // The kernel wants to be told that the device has several queues.
            Err(Errno::EINVAL) => set_interface(&fd, name, libc::IFF_MULTI_QUEUE)?,
            attached => attached,
        };
        match attached {
            Ok(()) => {}
            Err(Errno::EBUSY) => return Err(TapError::InUse { name: name_owned() }),
            Err(errno) => return Err(setup_error(name, "attach to the queue", errno)),
        }
        // A device that was deleted since it was looked at has just been made anew by
        // TUNSETIFF; only such a one is free and not persistent. Closing deletes it.
        let state =
            interface_of(&fd).map_err(|errno| setup_error(name, "read the state", errno))?;
        if !state.has(libc::IFF_PERSIST) {
            return Err(TapError::NotFound { name: name_owned() });
        }
        let tap = Self {
            fd,
            name: name_owned(),
        };
        tap.configure(options)?;
        Ok(tap)
    }

    /// The interface's name when this value was made.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says whether the interface outlives this value and this process.
    ///
    /// # Errors
    /// [`TapError::Setup`] with what the kernel said.
    pub fn set_persist(&self, persist: bool) -> Result<(), TapError> {
        // SAFETY: the ioctl takes an integer and `fd` is an open TAP descriptor.
        let done =
            unsafe { ioctl::tun_set_persist(self.fd.as_raw_fd(), libc::c_int::from(persist)) };
        done.map_err(|errno| setup_error(&self.name, "change the persistence", errno))?;
        Ok(())
    }

    /// Reads one virtio-net header and frame, and gives their length in octets.
    ///
    /// A frame that is longer than `buffer` is cut to it.
    ///
    /// # Errors
    /// `WouldBlock` when no frame waits; `EIO` while the interface is down;
    /// `EBADFD` when the interface was deleted.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.fd, buffer)?)
    }

    /// Writes one virtio-net header and frame, which the kernel then receives on
    /// the interface; gives the length written, which is all of it.
    ///
    /// # Errors
    /// `EINVAL` for a header or frame that the kernel cannot make sense of; `EIO`
    /// while the interface is down; `WouldBlock` when memory is short; `EBADFD`
    /// when the interface was deleted.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.fd, frame)?)
    }

    /// As [`Tap::write`], of a header and frame that lie in several places.
    ///
    /// # Errors
    /// As [`Tap::write`].
    pub fn write_vectored(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(nix::sys::uio::writev(&self.fd, parts)?)
    }

    fn configure(&self, options: TapOptions) -> Result<(), TapError> {
        let fd = self.fd.as_raw_fd();
        let size = libc::c_int::try_from(options.offloads.header_len()).unwrap_or_default();
        // SAFETY: the pointer is to a live integer, which the kernel only reads.
        unsafe { ioctl::tun_set_vnet_header_size(fd, &raw const size) }
            .map_err(|errno| setup_error(&self.name, "set the header size", errno))?;
        let little_endian: libc::c_int = 1;
        // SAFETY: the pointer is to a live integer, which the kernel only reads.
        unsafe { ioctl::tun_set_vnet_little_endian(fd, &raw const little_endian) }
            .map_err(|errno| setup_error(&self.name, "set the byte order", errno))?;
        let set = |offloads: TapOffloads| {
            let bits = offloads.0.cast_signed();
            // SAFETY: the ioctl takes an integer and `fd` is an open TAP descriptor.
            unsafe { ioctl::tun_set_offload(fd, bits) }
        };
        let offloads = options.offloads;
        match set(offloads) {
            // The kernel refuses all when it does not know one.
            Err(Errno::EINVAL) if offloads == TapOffloads::ALL => set(TapOffloads::TCP),
            done => done,
        }
        .map_err(|errno| setup_error(&self.name, "set the offloads", errno))?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.fd
    }
}

/// Takes over a descriptor, such as one that was handed over by another process.
/// Its name is the interface's present one.
impl TryFrom<OwnedFd> for Tap {
    type Error = TapError;

    fn try_from(fd: OwnedFd) -> Result<Self, TapError> {
        let reason = |reason: String| TapError::NotATapDescriptor { reason };
        let state = interface_of(&fd).map_err(|errno| reason(errno.desc().to_owned()))?;
        if !state.has(libc::IFF_TAP) {
            return Err(reason("it is a TUN device".to_owned()));
        }
        if !state.has(libc::IFF_VNET_HDR) || !state.has(libc::IFF_NO_PI) {
            return Err(reason("its frames have another header".to_owned()));
        }
        let name = text(&state.name);
        Ok(Self { fd, name })
    }
}

fn open_control() -> Result<OwnedFd, TapError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CONTROL_DEVICE)
        .map(OwnedFd::from)
        .map_err(|source| TapError::ControlDevice { source })
}

fn set_interface(
    fd: &OwnedFd,
    name: &str,
    extra: libc::c_int,
) -> Result<Result<(), Errno>, TapError> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | extra;
    let mut request = InterfaceRequest {
        name: interface_name(name)?,
        // All flags of TUNSETIFF are in the low 16 bits.
        flags: u16::try_from(flags).unwrap_or_default(),
        ..InterfaceRequest::EMPTY
    };
    // SAFETY: the pointer is to a live request of at least the size of `struct ifreq`,
    // any bytes of which are valid.
    let done = unsafe { ioctl::tun_set_iff(fd.as_raw_fd(), &raw mut request) };
    Ok(done.map(drop))
}

fn interface_of(fd: &OwnedFd) -> Result<InterfaceRequest, Errno> {
    let mut request = InterfaceRequest::EMPTY;
    // SAFETY: the pointer is to a live request of at least the size of `struct ifreq`,
    // any bytes of which are valid.
    unsafe { ioctl::tun_get_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(request)
}

/// Checks `name` as the kernel does, and refuses "%" too, by which the kernel
/// would pick a name itself.
fn interface_name(name: &str) -> Result<[u8; NAME_SIZE], TapError> {
    let bytes = name.as_bytes();
    let bad = |byte: &u8| {
        matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace() || byte.is_ascii_control()
    };
    if bytes.is_empty()
        || bytes.len() >= NAME_SIZE
        || bytes.iter().any(bad)
        || matches!(name, "." | "..")
    {
        return Err(TapError::InvalidName {
            name: name.to_owned(),
        });
    }
    let mut padded = [0; NAME_SIZE];
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok(padded)
}

/// What the interface `name` of this thread's namespace is; `None` when there is none.
///
/// sysfs is of no use here: it shows the namespace in which it was mounted.
fn holder_of(name: &str) -> Option<Holder> {
    if nix::net::if_::if_nametoindex(name).is_err() {
        return None;
    }
    Some(driver_of(name).unwrap_or(Holder::Unknown))
}

fn driver_of(name: &str) -> Option<Holder> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rest: [0; 64],
    };
    let mut request = EthtoolRequest {
        name: interface_name(name).ok()?,
        data: &raw mut info,
        rest: [0; 16],
    };
    // SAFETY: the request and the driver information it points to are live and of the
    // kernel's layout; any bytes in them are valid.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &raw mut request) }.ok()?;
    let driver = text(&info.driver);
    Some(match (driver.as_str(), text(&info.bus).as_str()) {
        ("tun", "tap") => Holder::Tap,
        ("tun", _) => Holder::Tun,
        _ => Holder::Other { driver },
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn setup_error(name: &str, action: &'static str, errno: Errno) -> TapError {
    TapError::Setup {
        name: name.to_owned(),
        action,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "tap%d",
            "a\tb",
            "a\0b",
            "exactly16bytes..",
        ] {
            assert!(
                matches!(
                    Tap::create(name, TapOptions::default()),
                    Err(TapError::InvalidName { .. })
                ),
                "{name:?}"
            );
            assert!(
                matches!(
                    Tap::attach(name, TapOptions::default()),
                    Err(TapError::InvalidName { .. })
                ),
                "{name:?}"
            );
        }
        assert!(interface_name("exactly15bytes.").is_ok());
    }

    #[test]
    fn a_descriptor_of_something_else_is_refused() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(matches!(
            Tap::try_from(file),
            Err(TapError::NotATapDescriptor { .. })
        ));
        let fresh = open_control().unwrap();
        assert!(matches!(
            Tap::try_from(fresh),
            Err(TapError::NotATapDescriptor { .. })
        ));
    }

    #[test]
    fn attaching_to_nothing_creates_nothing() {
        let name = format!("cvno{}", std::process::id());
        assert!(matches!(
            Tap::attach(&name, TapOptions::default()),
            Err(TapError::NotFound { .. })
        ));
        assert!(nix::net::if_::if_nametoindex(name.as_str()).is_err());
    }
}
