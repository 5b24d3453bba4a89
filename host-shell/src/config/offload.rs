//! `[offload]`: the appliance that forwards for this node, and the devices by which it
//! reaches this node's pods.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_core::PortId;
use culvert_core::channel::{MAX_ADDRESSES, Role};
use ipnet::IpNet;
use serde::Deserialize;

use super::address::{Prefixes, address};
use super::devices::Devices;
use super::{MAX_SOCKET_PATH, Node};
use crate::cni::ifname_problem;
use crate::mac::Mac;

/// The first port of devices that are given by a pattern: 0 and 1 are what the uplink
/// and the host usually have.
const FIRST_PORT: u16 = 2;

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
}

/// Where the appliance's control channel ends on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelAddress {
    /// A stream socket, as QEMU's `-chardev socket` makes one.
    Unix(PathBuf),
    /// A serial line, or what looks like one.
    Serial(PathBuf),
}

impl fmt::Display for ChannelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ChannelAddress::Serial(path) => write!(f, "{}", path.display()),
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
    uplink: RawUplink,
    host: Option<RawHost>,
    devices: Devices,
    first_port: Option<u16>,
    #[serde(default)]
    nics: Vec<RawNic>,
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
        let channel = channel(&self.channel, directory, &mut found);
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
        };
        offload.check_devices(&mut found);
        problems.extend(found.into_iter().map(|found| format!("offload.{found}")));
        offload
    }
}

/// Where the channel is; of what is no address a path that nothing is at.
fn channel(text: &str, directory: &Path, found: &mut Vec<String>) -> ChannelAddress {
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
            "channel {text:?} is none that is known; write \"unix:/path/of/a/socket\", or \"/dev/…\" for a serial line"
        ));
    }
    ChannelAddress::Serial(PathBuf::from(text))
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
        check_gateways(&self.gateways, &addresses, found);
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

fn check_gateways(gateways: &[IpAddr], addresses: &[IpNet], found: &mut Vec<String>) {
    for (index, gateway) in gateways.iter().enumerate() {
        address("uplink.gateways", *gateway, found);
        let mut earlier = gateways[..index].iter();
        if let Some(other) = earlier.find(|other| other.is_ipv4() == gateway.is_ipv4()) {
            found.push(format!(
                "uplink.gateways has {other} and {gateway}; there can be one of each IP version"
            ));
        }
        if !addresses.iter().any(|own| own.contains(gateway)) {
            let own: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            found.push(format!(
                "uplink.gateways: {gateway} is not on the link of {}",
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
    /// Checks that devices and ports are there once each.
    fn check_devices(&self, found: &mut Vec<String>) {
        let mut names = HashSet::new();
        let mut ports = HashSet::from([self.uplink.port]);
        let host = self.host.iter().map(|device| ("host", device));
        let pool = self.devices.iter().map(|device| ("devices", device));
        for (key, PortDevice { name, port }) in host.chain(pool) {
            if let Some(problem) = ifname_problem(name) {
                found.push(format!("{key}: {name:?} {problem}"));
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
