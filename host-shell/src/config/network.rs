//! The `[network]` section: what the pods' addresses are and how packets get to other nodes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_core::channel::{Encap, MAX_ADDRESSES, Proxy};
use ipnet::IpNet;
use serde::Deserialize;

use super::address::{Prefixes, address, block, name_problem, overlap, overlaps};
use crate::mac::Mac;

/// VXLAN's port by registration (RFC 7348), where the file needs to name none.
const VXLAN_PORT: u16 = 4789;
/// Prefixes that hosts have no addresses from: unspecified, loopback, link-local, multicast.
const RESERVED: [&str; 6] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/3",
    "::/8",
    "fe80::/10",
    "ff00::/8",
];

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The prefixes that all pod blocks lie in, without host bits; at least one.
    pub prefixes: Vec<IpNet>,
    /// VXLAN network identifier, 1 to 16777215.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub udp_port: u16,
    /// How packets get to other nodes.
    pub mode: Mode,
    /// The encapsulations that are taken from other nodes.
    pub accept: Vec<Encap>,
    /// The address that pods know as their IPv4 gateway, the same on all nodes.
    pub gateway: Ipv4Addr,
    /// The address that pods know as their IPv6 gateway, the same on all nodes.
    pub gateway6: Ipv6Addr,
    /// The MAC that answers for the gateways.
    pub gateway_mac: Mac,
    /// Whom the gateway answers ARP and neighbor discovery for.
    pub proxy: Proxy,
    /// Broadcast and multicast of pods is copied to every pod and node.
    pub flood: bool,
    /// The MSS of TCP connections is lowered to what fits the way (RFC 4459).
    pub clamp_mss: bool,
    /// Outer UDP headers have a checksum.
    pub udp_checksum: bool,
    /// Outer IPv4 headers forbid routers to fragment tunnel packets.
    pub outer_df: bool,
}

/// How packets get to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To all in the same way.
    One(Encap),
    /// Without a tunnel to nodes on this node's own underlay subnet, through this one to all others.
    CrossSubnet(Encap),
}

impl Mode {
    /// The encapsulation that takes the most of the underlay's MTU.
    pub fn largest(self) -> Encap {
        match self {
            Mode::One(encap) | Mode::CrossSubnet(encap) => encap,
        }
    }

    /// Whether packets to some node need no tunnel.
    pub fn has_direct(self) -> bool {
        matches!(self, Mode::One(Encap::Direct) | Mode::CrossSubnet(_))
    }

    /// What nodes in this mode send.
    fn sends(self) -> Vec<Encap> {
        match self {
            Mode::One(encap) => vec![encap],
            Mode::CrossSubnet(tunnel) => vec![tunnel, Encap::Direct],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::One(encap) => encap.fmt(f),
            Mode::CrossSubnet(tunnel) => write!(f, "cross-subnet, {tunnel}"),
        }
    }
}

impl Network {
    /// The prefix that an address lies in.
    pub fn prefix_of(&self, address: IpAddr) -> Option<IpNet> {
        let mut prefixes = self.prefixes.iter();
        prefixes.find(|prefix| prefix.contains(&address)).copied()
    }

    /// The gateway for addresses of the same IP version as `address`.
    pub fn gateway_for(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => self.gateway.into(),
            IpAddr::V6(_) => self.gateway6.into(),
        }
    }

    /// The gateways of the IP versions that the network has prefixes of, IPv4 first.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let both = [IpAddr::from(self.gateway), IpAddr::from(self.gateway6)];
        let used = |gateway: &IpAddr| {
            let mut prefixes = self.prefixes.iter();
            prefixes.any(|prefix| prefix.addr().is_ipv4() == gateway.is_ipv4())
        };
        both.into_iter().filter(used)
    }

    /// Whether packets of this encapsulation are sent or taken.
    pub fn uses(&self, encap: Encap) -> bool {
        self.accept.contains(&encap)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    name: String,
    prefix: Prefixes,
    // Wider than what is allowed, so that the error can name the range.
    vni: Option<i64>,
    udp_port: Option<i64>,
    #[serde(default = "default_encap")]
    encap: RawMode,
    tunnel: Option<RawTunnel>,
    #[serde(default)]
    accept: Vec<RawEncap>,
    #[serde(default = "default_gateway")]
    gateway: IpAddr,
    #[serde(default = "default_gateway6")]
    gateway6: IpAddr,
    #[serde(default = "default_gateway_mac")]
    gateway_mac: Mac,
    #[serde(default = "default_proxy")]
    proxy: RawProxy,
    #[serde(default)]
    flood: bool,
    #[serde(default)]
    clamp_mss: bool,
    #[serde(default = "default_udp_checksum")]
    udp_checksum: bool,
    #[serde(default = "default_outer_df")]
    outer_df: bool,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    Vxlan,
    Ipip,
    Direct,
    CrossSubnet,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawTunnel {
    Vxlan,
    Ipip,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawEncap {
    Vxlan,
    Ipip,
    Direct,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawProxy {
    LinkLocal,
    Network,
}

fn default_encap() -> RawMode {
    RawMode::Vxlan
}

fn default_gateway() -> IpAddr {
    Ipv4Addr::new(169, 254, 1, 1).into()
}

fn default_gateway6() -> IpAddr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()
}

fn default_gateway_mac() -> Mac {
    Mac([0xee; 6])
}

fn default_proxy() -> RawProxy {
    RawProxy::LinkLocal
}

fn default_udp_checksum() -> bool {
    true
}

fn default_outer_df() -> bool {
    true
}

impl From<RawTunnel> for Encap {
    fn from(raw: RawTunnel) -> Encap {
        match raw {
            RawTunnel::Vxlan => Encap::Vxlan,
            RawTunnel::Ipip => Encap::Ipip,
        }
    }
}

impl From<RawEncap> for Encap {
    fn from(raw: RawEncap) -> Encap {
        match raw {
            RawEncap::Vxlan => Encap::Vxlan,
            RawEncap::Ipip => Encap::Ipip,
            RawEncap::Direct => Encap::Direct,
        }
    }
}

impl RawNetwork {
    /// The section with what is wrong with it added to `problems`; nodes ask for
    /// `tunnels` of their own.
    pub(super) fn check(self, tunnels: &[Encap], problems: &mut Vec<String>) -> Network {
        let mut found = Vec::new();
        if let Some(problem) = name_problem(&self.name) {
            found.push(format!("name {:?} {problem}", self.name));
        }
        let mode = self.mode(&mut found);
        let accept = self.accepted(mode, tunnels);
        let vxlan = accept.contains(&Encap::Vxlan);
        let vni = number("vni", self.vni, (1, 0x00ff_ffff), (vxlan, 1), &mut found);
        let default_port = (vxlan, u32::from(VXLAN_PORT));
        let udp_port = number(
            "udp_port",
            self.udp_port,
            (1, 65535),
            default_port,
            &mut found,
        );
        let prefixes = prefixes(&self.prefix.0, &mut found);
        let gateway = self.gateway(&prefixes, &mut found);
        let gateway6 = self.gateway6(&prefixes, &mut found);
        if let Some(problem) = self.gateway_mac.problem() {
            found.push(format!("gateway_mac {} {problem}", self.gateway_mac));
        }
        problems.extend(found.into_iter().map(|found| format!("network: {found}")));
        Network {
            name: self.name,
            prefixes,
            vni,
            udp_port: u16::try_from(udp_port).unwrap_or_default(),
            mode,
            accept,
            gateway,
            gateway6,
            gateway_mac: self.gateway_mac,
            proxy: match self.proxy {
                RawProxy::LinkLocal => Proxy::LinkLocal,
                RawProxy::Network => Proxy::Network,
            },
            flood: self.flood,
            clamp_mss: self.clamp_mss,
            udp_checksum: self.udp_checksum,
            outer_df: self.outer_df,
        }
    }

    fn mode(&self, found: &mut Vec<String>) -> Mode {
        if self.tunnel.is_some() && !matches!(self.encap, RawMode::CrossSubnet) {
            found.push("tunnel is for encap = \"cross-subnet\" only; remove it".to_owned());
        }
        match self.encap {
            RawMode::Vxlan => Mode::One(Encap::Vxlan),
            RawMode::Ipip => Mode::One(Encap::Ipip),
            RawMode::Direct => Mode::One(Encap::Direct),
            RawMode::CrossSubnet => {
                Mode::CrossSubnet(self.tunnel.map_or(Encap::Vxlan, Encap::from))
            }
        }
    }

    /// What the mode and the nodes need, and what the file adds.
    fn accepted(&self, mode: Mode, tunnels: &[Encap]) -> Vec<Encap> {
        let mut all = mode.sends();
        let added = self.accept.iter().copied().map(Encap::from);
        for encap in tunnels.iter().copied().chain(added) {
            if !all.contains(&encap) {
                all.push(encap);
            }
        }
        all
    }

    fn gateway(&self, prefixes: &[IpNet], found: &mut Vec<String>) -> Ipv4Addr {
        check_gateway("gateway", self.gateway, prefixes, found);
        match self.gateway {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => {
                found.push(format!("gateway {v6} is IPv6; write it as gateway6"));
                Ipv4Addr::UNSPECIFIED
            }
        }
    }

    fn gateway6(&self, prefixes: &[IpNet], found: &mut Vec<String>) -> Ipv6Addr {
        check_gateway("gateway6", self.gateway6, prefixes, found);
        match self.gateway6 {
            IpAddr::V6(v6) => v6,
            IpAddr::V4(v4) => {
                found.push(format!("gateway6 {v4} is IPv4; write it as gateway"));
                Ipv6Addr::UNSPECIFIED
            }
        }
    }
}

fn check_gateway(key: &str, gateway: IpAddr, prefixes: &[IpNet], found: &mut Vec<String>) {
    address(key, gateway, found);
    if let Some(prefix) = prefixes.iter().find(|prefix| prefix.contains(&gateway)) {
        let example = match gateway {
            IpAddr::V4(_) => "169.254.1.1",
            IpAddr::V6(_) => "fe80::1",
        };
        found.push(format!(
            "{key} {gateway} lies inside the pods' prefix {prefix}; choose a link-local one, as {example}"
        ));
    }
}

/// A number within its bounds; the default only where VXLAN needs none.
fn number(
    key: &str,
    value: Option<i64>,
    (least, most): (u32, u32),
    (needed, default): (bool, u32),
    found: &mut Vec<String>,
) -> u32 {
    let Some(value) = value else {
        if needed {
            found.push(format!("{key} is missing; VXLAN needs it"));
        }
        return default;
    };
    let number = u32::try_from(value).ok();
    // A problem is recorded where the default stands in, so nobody sees that.
    number
        .filter(|number| (least..=most).contains(number))
        .unwrap_or_else(|| {
            found.push(format!("{key} {value} is not from {least} to {most}"));
            default
        })
}

fn prefixes(all: &[IpNet], found: &mut Vec<String>) -> Vec<IpNet> {
    if all.is_empty() {
        found.push("prefix is an empty list; the pods need addresses".to_owned());
    }
    if all.len() > MAX_ADDRESSES {
        found.push(format!(
            "prefix has {} entries; {MAX_ADDRESSES} are the most",
            all.len()
        ));
    }
    let prefixes: Vec<IpNet> = all
        .iter()
        .map(|prefix| block("prefix", *prefix, found))
        .collect();
    for prefix in &prefixes {
        let hit = RESERVED
            .into_iter()
            .find(|net| net.parse().is_ok_and(|net| overlap(net, *prefix)));
        if let Some(net) = hit {
            found.push(format!(
                "prefix {prefix} overlaps {net}, which is not for hosts"
            ));
        }
    }
    for (one, other) in overlaps(&prefixes) {
        found.push(format!("prefix {one} overlaps prefix {other}; remove one"));
    }
    prefixes
}
