//! Who has a UDP port or address: the sentence that belongs behind "cannot bind".

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netlink::{Netlink, VxlanDevice};
use crate::sys::netns::NetNs;

/// Who uses a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortUser {
    /// A process has a socket.
    Process {
        /// The process's name (`comm`), at most 15 octets and of its own choice.
        name: String,
        /// Its number.
        pid: u32,
    },
    /// A VXLAN device of the kernel receives there.
    Vxlan {
        /// The interface's name.
        name: String,
        /// Its network identifier.
        vni: u32,
    },
    /// No process that this one can see: the kernel itself, by no VXLAN device that
    /// is up in the namespace, or a process in another process namespace.
    Unseen {
        /// The user who made the socket.
        uid: u32,
    },
}

impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "process {name:?} (pid {pid})"),
            Self::Vxlan { name, vni } => {
                write!(f, "the kernel's vxlan device {name:?} (VNI {vni})")
            }
            Self::Unseen { uid } => write!(
                f,
                "the kernel (another tunnel, or a vxlan device in another namespace) \
                 or a process of user {uid} that is not visible from here"
            ),
        }
    }
}

/// Says why binding the UDP address `address` in `ns` (`None`: the calling
/// thread's namespace) failed with `error`: who has the port, or which addresses
/// there are. For any other error, and where nothing can be found out, the
/// sentence is the error's own.
pub async fn explain_bind_error(
    ns: Option<&NetNs>,
    address: SocketAddr,
    error: &io::Error,
) -> String {
    let found = match error.kind() {
        io::ErrorKind::AddrInUse => explain_in_use(ns, address).await,
        io::ErrorKind::AddrNotAvailable => explain_not_available(ns, address.ip()).await,
        _ => None,
    };
    found.unwrap_or_else(|| format!("cannot bind UDP {address}: {error}"))
}

async fn explain_in_use(ns: Option<&NetNs>, address: SocketAddr) -> Option<String> {
    let users = port_users(ns, address).await;
    if users.is_empty() {
        return None;
    }
    let users: Vec<String> = users.iter().map(ToString::to_string).collect();
    Some(format!(
        "UDP port {} is used by {}",
        address.port(),
        users.join(" and by ")
    ))
}

async fn explain_not_available(ns: Option<&NetNs>, address: IpAddr) -> Option<String> {
    let netlink = Netlink::connect(ns).ok()?;
    let addresses = netlink.addresses(None).await.ok()?;
    let links = netlink.links().await.ok()?;
    let mut list: Vec<String> = Vec::new();
    for entry in addresses
        .iter()
        .filter(|entry| entry.address.is_ipv4() == address.is_ipv4())
    {
        let link = links.iter().find(|link| link.index == entry.link_index);
        let name = link.map_or("?", |link| link.name.as_str());
        list.push(format!("{} ({name})", entry.address));
    }
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    Some(if list.is_empty() {
        format!("no interface of this node has the address {address}; there is no {family} address")
    } else {
        let list = list.join(", ");
        format!(
            "no interface of this node has the address {address}; the {family} addresses are {list}"
        )
    })
}

/// Who has a socket in `ns` that keeps `address` from being bound, each once.
/// Empty when nobody has, or it cannot be found out.
pub async fn port_users(ns: Option<&NetNs>, address: SocketAddr) -> Vec<PortUser> {
    let sockets = match ns {
        Some(ns) => ns.run(sockets_of_thread).unwrap_or_default(),
        None => sockets_of_thread(),
    };
    let mut users = BTreeSet::new();
    for socket in sockets
        .iter()
        .filter(|socket| conflicts(socket.address, address))
    {
        let mut found = processes_with(socket.inode);
        if found.is_empty() {
            // A socket of the kernel has an inode too, but nobody has it open.
            found = vxlan_at(ns, address.port()).await;
        }
        if found.is_empty() {
            found.push(PortUser::Unseen { uid: socket.uid });
        }
        users.extend(found);
    }
    users.into_iter().collect()
}

async fn vxlan_at(ns: Option<&NetNs>, port: u16) -> Vec<PortUser> {
    let Ok(netlink) = Netlink::connect(ns) else {
        return Vec::new();
    };
    let devices = netlink.vxlan_devices().await.unwrap_or_default();
    let user = |device: VxlanDevice| PortUser::Vxlan {
        name: device.name,
        vni: device.vni,
    };
    devices
        .into_iter()
        .filter(|device| device.up && device.port == port)
        .map(user)
        .collect()
}

/// A line of `/proc/net/udp` or `udp6`.
#[derive(Debug, PartialEq, Eq)]
struct SocketLine {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

/// The UDP sockets of the calling thread's namespace. (`/proc/net` would show
/// the namespace of the process's first thread.)
fn sockets_of_thread() -> Vec<SocketLine> {
    let mut sockets = Vec::new();
    for path in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(parse_line));
    }
    sockets
}

fn parse_line(line: &str) -> Option<SocketLine> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    let uid = fields.nth(5)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(SocketLine {
        address,
        uid,
        inode,
    })
}

/// Parses an address as the kernel prints it: 32-bit words in host order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            octets.copy_from_slice(words.as_flattened());
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Whether a socket at `taken` can keep `wanted` from being bound. An IPv6
/// wildcard socket may take IPv4 too; the kernel does not tell, so it counts.
fn conflicts(taken: SocketAddr, wanted: SocketAddr) -> bool {
    if taken.port() != wanted.port() {
        return false;
    }
    let same_family = taken.is_ipv4() == wanted.is_ipv4();
    let either_wildcard = taken.ip().is_unspecified() || wanted.ip().is_unspecified();
    match (same_family, taken.ip()) {
        (true, ip) => ip == wanted.ip() || either_wildcard,
        (false, IpAddr::V6(ip)) => {
            ip.is_unspecified() || ip.to_ipv4_mapped().map(IpAddr::V4) == Some(wanted.ip())
        }
        (false, IpAddr::V4(_)) => false,
    }
}

/// The processes that have the socket `inode` open.
fn processes_with(inode: u64) -> Vec<PortUser> {
    let target = format!("socket:[{inode}]");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| has_open(*pid, &target))
        .map(|pid| PortUser::Process {
            name: name_of(pid),
            pid,
        })
        .collect()
}

fn has_open(pid: u32, target: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == target))
}

fn name_of(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => name.trim_end().to_owned(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_parsed() {
        let line = "  123: 0100007F:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4567 2 ffff 0";
        let socket = SocketLine {
            address: at("127.0.0.1:8472"),
            uid: 101,
            inode: 4567,
        };
        assert_eq!(parse_line(line), Some(socket));
        let line = "  9: 000080FE00000000FF00000001000000:12B5 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 ffff 0";
        let address = at("[fe80::ff:0:1]:4789");
        assert_eq!(
            parse_line(line).map(|socket| (socket.address, socket.inode)),
            Some((address, 0))
        );
        for broken in [
            "",
            "1:",
            "1: 0100007F",
            "1: 0100007F:xyz a b c d e f 1 2",
            "1: é100007:1 a b c d e f 1 2",
        ] {
            assert_eq!(parse_line(broken), None, "{broken}");
        }
    }

    #[test]
    fn only_sockets_in_the_way_count() {
        for (taken, wanted, expected) in [
            ("10.0.0.1:1", "10.0.0.1:1", true),
            ("10.0.0.1:1", "10.0.0.1:2", false),
            ("10.0.0.1:1", "10.0.0.2:1", false),
            ("0.0.0.0:1", "10.0.0.2:1", true),
            ("10.0.0.1:1", "0.0.0.0:1", true),
            ("[::]:1", "10.0.0.1:1", true),
            ("[::ffff:10.0.0.1]:1", "10.0.0.1:1", true),
            ("[fe80::1]:1", "10.0.0.1:1", false),
            ("10.0.0.1:1", "[::]:1", false),
            ("[fe80::1]:1", "[::]:1", true),
        ] {
            assert_eq!(
                conflicts(at(taken), at(wanted)),
                expected,
                "{taken} {wanted}"
            );
        }
    }
}
