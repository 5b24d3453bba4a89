//! `[offload]`: the appliance that forwards for this node, and the devices by which it
//! reaches this node's pods.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_core::PortId;
use culvert_core::channel::{MAX_ADDRESSES, Role};
use ipnet::IpNet;
use serde::Deserialize;

use super::address::{Prefixes, address};
use super::devices::Devices;
use super::management::{ManagementPort, RawManagement};
use super::{MAX_SOCKET_PATH, Node};
use crate::appliance::key::Key;
use crate::cni::ifname_problem;
use crate::mac::Mac;

/// The first port of devices that are given by a pattern: 0 and 1 are what the uplink
/// and the host usually have.
const FIRST_PORT: u16 = 2;
/// Ports that an appliance has room for: [`culvert_core::Appliance`]'s table.
const PORTS: u16 = 4096;
/// What a channel by TCP begins with.
const TCP: &str = "tcp://";

/// What offload mode needs to know of the appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offload {
    /// How it is told its tables.
    pub channel: ChannelAddress,
    /// Its port on the underlay.
    pub uplink: Uplink,
    /// The node's own way to its pods, if it has one.
    pub host: Option<PortDevice>,
    /// Devices for pods, in the order in which they are taken.
    pub devices: Vec<PortDevice>,
    /// What NICs are for whose MAC address does not tell it.
    pub nics: Vec<(Mac, Role)>,
    /// What its management port is to be; without it that stays as it is.
    pub management: Option<ManagementPort>,
}

/// Where the appliance's control channel ends on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelAddress {
    /// A stream socket, as QEMU's `-chardev socket` makes one.
    Unix(PathBuf),
    /// A serial line, or what looks like one.
    Serial(PathBuf),
    /// The appliance's management port.
    Tcp {
        /// An IP address or a name, with a port.
        address: String,
        /// Where the key is that the appliance has too. It is read for each connection,
        /// so that another key takes no restart.
        key_file: PathBuf,
    },
}

impl fmt::Display for ChannelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ChannelAddress::Serial(path) => write!(f, "{}", path.display()),
            ChannelAddress::Tcp { address, .. } => write!(f, "{TCP}{address}"),
        }
    }
}

/// The appliance's port on the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its number.
    pub port: u16,
    /// The MAC address that it has on the link.
    pub mac: Mac,
    /// Its addresses, each with the length of the link's prefix; one is the node's.
    pub addresses: Vec<IpNet>,
    /// Gateways for what is not on the link, at most one of each IP version.
    pub gateways: Vec<IpAddr>,
    /// Largest IP packet on the link in bytes.
    pub mtu: u32,
}

impl Uplink {
    /// Length of the prefix on the link of one of the uplink's addresses.
    pub fn prefix_length(&self, address: IpAddr) -> Option<u8> {
        let mut all = self.addresses.iter();
        let own = all.find(|own| own.addr() == address);
        own.map(IpNet::prefix_len)
    }
}

/// An interface of this node whose other end is a port of the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortDevice {
    /// The interface's name while no pod has it.
    pub name: String,
    /// The appliance's port.
    pub port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOffload {
    channel: String,
    key_file: Option<PathBuf>,
    uplink: RawUplink,
    host: Option<RawHost>,
    devices: Devices,
    first_port: Option<u16>,
    #[serde(default)]
    nics: Vec<RawNic>,
    management: Option<RawManagement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUplink {
    #[serde(default)]
    port: u16,
    mac: Option<Mac>,
    address: Prefixes,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default = "default_mtu")]
    mtu: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    device: String,
    #[serde(default = "default_host_port")]
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNic {
    mac: Mac,
    role: String,
}

fn default_mtu() -> u32 {
    1500
}

fn default_host_port() -> u16 {
    1
}

impl RawOffload {
    /// The section with what is wrong with it added to `problems`; relative paths are
    /// relative to `directory`.
    pub(super) fn check(self, directory: &Path, problems: &mut Vec<String>) -> Offload {
        let mut found = Vec::new();
        let key_file = self.key_file.map(|path| directory.join(path));
        let channel = channel(&self.channel, (directory, key_file), &mut found);
        let is_tcp = matches!(channel, ChannelAddress::Tcp { .. });
        if is_tcp && self.management.is_some() {
            // Another address or key would end the connection by which it is told.
            found.push(
                "management is told over a console, and channel is TCP; remove the section and use `culvert appliance manage` at the console"
                    .to_owned(),
            );
        }
        let management = self.management;
        let management = management.map(|raw| raw.check(directory, &mut found));
        let uplink = self.uplink.check(&mut found);
        let host = self.host.map(|host| PortDevice {
            name: host.device,
            port: host.port,
        });
        let first = self.first_port;
        if first.is_some() && self.devices.have_ports() {
            found.push(
                "first_port is for devices that are given by a pattern, and these have ports of their own"
                    .to_owned(),
            );
        }
        let devices = self.devices.expand(first.unwrap_or(FIRST_PORT), &mut found);
        let nics = self.nics.iter();
        let offload = Offload {
            channel,
            uplink,
            host,
            devices,
            nics: nics.filter_map(|nic| nic.check(&mut found)).collect(),
            management,
        };
        offload.check_devices(&mut found);
        problems.extend(found.into_iter().map(|found| format!("offload.{found}")));
        offload
    }
}

/// Where the channel is; of what is no address a path that nothing is at.
fn channel(
    text: &str,
    (directory, key_file): (&Path, Option<PathBuf>),
    found: &mut Vec<String>,
) -> ChannelAddress {
    if let Some(address) = text.strip_prefix(TCP) {
        return tcp(address, key_file, found);
    }
    if key_file.is_some() {
        found.push(format!(
            "key_file is for a channel by TCP, and channel is {text:?}"
        ));
    }
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        let path = directory.join(path);
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            found.push(format!(
                "channel {text:?} is too long: a socket's path has at most {MAX_SOCKET_PATH} bytes"
            ));
        }
        return ChannelAddress::Unix(path);
    }
    if !text.starts_with("/dev/") {
        found.push(format!(
            "channel {text:?} is none that is known; write \"unix:/path/of/a/socket\", \"/dev/…\" for a serial line, or \"tcp://ADDRESS:PORT\""
        ));
    }
    ChannelAddress::Serial(PathBuf::from(text))
}

/// A channel to the appliance's management port, whose key can be used.
fn tcp(address: &str, key_file: Option<PathBuf>, found: &mut Vec<String>) -> ChannelAddress {
    if let Some(problem) = tcp_problem(address) {
        found.push(format!("channel \"{TCP}{address}\" {problem}"));
    }
    match &key_file {
        Some(path) => check_key(path, "key_file", found),
        None => found.push(format!(
            "channel \"{TCP}{address}\" needs key_file, the key that the appliance has too; `culvert appliance key FILE` makes one"
        )),
    }
    ChannelAddress::Tcp {
        address: address.to_owned(),
        key_file: key_file.unwrap_or_default(),
    }
}

/// Why this is not a host and a port. A name is looked up when it is used.
fn tcp_problem(address: &str) -> Option<&'static str> {
    let form = "is no address with a port; write it as \"tcp://192.0.2.9:7373\" or \"tcp://[2001:db8::9]:7373\"";
    let Some((host, port)) = address.rsplit_once(':') else {
        return Some(form);
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !is_bracketed {
        return Some("has an IPv6 address, which needs brackets: \"tcp://[2001:db8::9]:7373\"");
    }
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let has_host = match is_bracketed {
        true => address.parse::<SocketAddr>().is_ok(),
        false => {
            let of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !host.is_empty() && host.chars().all(of_name)
        }
    };
    (!has_port || !has_host).then_some(form)
}

/// Reports a file that holds no key, or that others may use.
pub(super) fn check_key(path: &Path, name: &str, found: &mut Vec<String>) {
    if let Err(error) = Key::read(path) {
        found.push(format!("{name}: {error}"));
    }
}

impl RawUplink {
    fn check(self, found: &mut Vec<String>) -> Uplink {
        let mac = self.mac.unwrap_or_else(|| {
            // The address that tells the appliance which port it is.
            Role::Port(PortId(self.port)).mac().into()
        });
        if let Some(problem) = mac.problem() {
            found.push(format!("uplink.mac {mac} {problem}"));
        }
        let addresses = self.address.0;
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
            found.push(format!(
                "uplink.address has {} addresses; give 1 to {MAX_ADDRESSES}",
                addresses.len()
            ));
        }
        for own in &addresses {
            address("uplink.address", own.addr(), found);
        }
        check_gateways("uplink.gateways", &self.gateways, &addresses, found);
        if self.mtu > u32::from(u16::MAX) {
            found.push(format!("uplink.mtu {} is more than 65535", self.mtu));
        }
        Uplink {
            port: self.port,
            mac,
            addresses,
            gateways: self.gateways,
            mtu: self.mtu,
        }
    }
}

/// Reports gateways that are not on the link of `addresses`, or too many.
pub(super) fn check_gateways(
    key: &str,
    gateways: &[IpAddr],
    addresses: &[IpNet],
    found: &mut Vec<String>,
) {
    for (index, gateway) in gateways.iter().enumerate() {
        address(key, *gateway, found);
        let mut earlier = gateways[..index].iter();
        if let Some(other) = earlier.find(|other| other.is_ipv4() == gateway.is_ipv4()) {
            found.push(format!(
                "{key} has {other} and {gateway}; there can be one of each IP version"
            ));
        }
        if !addresses.iter().any(|own| own.contains(gateway)) {
            let own: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            found.push(format!(
                "{key}: {gateway} is not on the link of {}",
                own.join(", ")
            ));
        }
    }
}

impl RawNic {
    fn check(&self, found: &mut Vec<String>) -> Option<(Mac, Role)> {
        let words: Vec<_> = self.role.split_whitespace().collect();
        let role = match words[..] {
            ["unused"] => Some(Role::Unused),
            ["management"] => Some(Role::Management),
            ["port", number] => number.parse().ok().map(|port| Role::Port(PortId(port))),
            ["trunk", number] => number.parse().ok().map(|base| Role::Trunk { base }),
            _ => None,
        };
        if role.is_none() {
            found.push(format!(
                "nics: {} has the role {:?}, which is none; write \"port 3\", \"trunk 100\", \"management\" or \"unused\"",
                self.mac, self.role
            ));
        }
        role.map(|role| (self.mac, role))
    }
}

impl Offload {
    /// Checks that devices and ports are there once each, and that an appliance can have
    /// such ports.
    fn check_devices(&self, found: &mut Vec<String>) {
        let too_high = |port: u16| {
            (port >= PORTS).then(|| {
                format!(
                    "port {port} is too high; an appliance has the ports 0 to {}",
                    PORTS - 1
                )
            })
        };
        let uplink = too_high(self.uplink.port);
        found.extend(uplink.map(|problem| format!("uplink: {problem}")));
        let mut names = HashSet::new();
        let mut ports = HashSet::from([self.uplink.port]);
        let host = self.host.iter().map(|device| ("host", device));
        let pool = self.devices.iter().map(|device| ("devices", device));
        for (key, PortDevice { name, port }) in host.chain(pool) {
            if let Some(problem) = ifname_problem(name) {
                found.push(format!("{key}: {name:?} {problem}"));
            }
            if let Some(problem) = too_high(*port) {
                found.push(format!("{key}: {name}: {problem}"));
            }
            if !names.insert(name) {
                found.push(format!("{key}: the device {name} is there twice"));
            }
            if !ports.insert(*port) {
                found.push(format!(
                    "{key}: {name} has port {port}, which another device or the uplink has"
                ));
            }
        }
    }

    /// What does not fit this node's entry in the cluster file.
    pub(super) fn problems_with(&self, node: &Node) -> Vec<String> {
        match self.uplink.prefix_length(node.underlay) {
            Some(_) => Vec::new(),
            None => vec![format!(
                "offload.uplink.address lacks {}, which the cluster file has as underlay of node {:?}; add it with the length of the link's prefix",
                node.underlay, node.name
            )],
        }
    }
}
