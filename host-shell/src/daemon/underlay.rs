//! This node's place on the underlay: the device, what fits through it, and how each of
//! the other nodes is reached.

use std::io;
use std::net::{IpAddr, SocketAddr};

use culvert_core::IpPrefix;
use culvert_core::channel::Encap;
use ipnet::IpNet;

use super::wire::{self, Reach};
use super::{StartError, start_error};
use crate::config::{Config, Mode, Node, UnderlayDriver, Uplink};
use crate::dataplane::{Underlay, UnderlayOptions};
use crate::netlink::{Link, Netlink, OperState, UnderlayLink};
use crate::sys::socket::{Socket, SocketError, SocketOptions};
use crate::sys::tap::Tap;
use crate::whois;

/// The smallest MTU of IPv4 (RFC 791).
const IPV4_MIN_MTU: u32 = 68;
/// The smallest MTU of IPv6 (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// Finds the interface that has this node's underlay address: one of the node's, or the
/// appliance's uplink.
pub(super) async fn find_link(
    config: &Config,
    netlink: &Netlink,
) -> Result<UnderlayLink, StartError> {
    let address = config.node.underlay;
    if let Some(offload) = &config.offload {
        return Ok(of_uplink(&offload.uplink, address));
    }
    match netlink
        .link_of_address(address)
        .await
        .map_err(start_error)?
    {
        Some(link) => Ok(link),
        None => {
            let error = io::Error::from(io::ErrorKind::AddrNotAvailable);
            let address = SocketAddr::new(address, config.cluster.network.udp_port);
            let why = whois::explain_bind_error(None, address, &error).await;
            Err(StartError(format!(
                "node {}: {why}; correct `underlay` in {}",
                config.node.name,
                config.cluster_path.display()
            )))
        }
    }
}

/// The appliance's uplink as if it were an interface of this node.
pub(super) fn of_uplink(uplink: &Uplink, address: IpAddr) -> UnderlayLink {
    // The configuration has the node's address among the uplink's.
    let alone = IpNet::from(address).prefix_len();
    UnderlayLink {
        link: Link {
            index: 0,
            name: format!("appliance port {}", uplink.port),
            mac: Some(uplink.mac.0),
            mtu: uplink.mtu,
            up: true,
            kind: None,
            oper_state: OperState::Unknown,
            alias: None,
        },
        prefix_length: uplink.prefix_length(address).unwrap_or(alone),
    }
}

/// How packets for `destination` get to another node.
pub(super) fn encap_to(
    config: &Config,
    underlay: &UnderlayLink,
    (node, destination): (&Node, IpAddr),
) -> Encap {
    if let Some(tunnel) = node.tunnel {
        return tunnel;
    }
    let tunnel = match config.cluster.network.mode {
        Mode::One(encap) => return encap,
        Mode::CrossSubnet(tunnel) => tunnel,
    };
    // An IPv4 route can lead over an IPv6 address (RFC 5549), not the other way round.
    let routable = destination.is_ipv4() || node.underlay.is_ipv6();
    match subnet(config, underlay) {
        Some(subnet) if routable => Encap::cross_subnet(subnet, node.underlay, tunnel),
        _ => tunnel,
    }
}

/// The underlay's own subnet.
fn subnet(config: &Config, underlay: &UnderlayLink) -> Option<IpPrefix> {
    let own = IpNet::new(config.node.underlay, underlay.prefix_length).ok()?;
    IpPrefix::new(own.network(), own.prefix_len()).ok()
}

/// What an encapsulation takes from the underlay's MTU, in bytes: the outer IP header
/// (20 or 40) and, for VXLAN, UDP 8, VXLAN 8 and inner Ethernet 14.
pub(super) fn overhead(encap: Encap, underlay: IpAddr) -> u32 {
    let ip = match underlay {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    match encap {
        Encap::Vxlan => ip + 30,
        Encap::Ipip => ip,
        Encap::Direct => 0,
    }
}

/// The MTU of the pods: the underlay's less what the largest encapsulation takes.
pub(super) fn pod_mtu(config: &Config, underlay: &UnderlayLink) -> Result<u32, StartError> {
    let (device, node) = (&underlay.link.name, &config.node);
    // The loopback's 65536 does not fit an IP packet's length.
    let mtu = underlay.link.mtu.min(u32::from(u16::MAX));
    if mtu == 0 {
        return Err(StartError(format!(
            "{device} does not tell its MTU, and that of the pods follows from it; set it with `ip link set {device} mtu …`"
        )));
    }
    let takes = |encap: Encap| (overhead(encap, node.underlay), encap);
    let all = config.cluster.encaps().map(takes);
    let (overhead, encap) = all
        .max_by_key(|(bytes, _)| *bytes)
        .unwrap_or(takes(Encap::Direct));
    let rest = mtu.saturating_sub(overhead);
    let has_v6 = node.pods.iter().any(|pods| pods.addr().is_ipv6());
    let (least, version) = match has_v6 {
        true => (IPV6_MIN_MTU, "IPv6"),
        false => (IPV4_MIN_MTU, "IPv4"),
    };
    if rest < least {
        return Err(StartError(format!(
            "{device} has an MTU of {mtu}, which leaves {rest} for the pods (encapsulation {encap} takes {overhead}), and {version} needs {least}; node {} needs an underlay MTU of at least {}",
            node.name,
            least + overhead
        )));
    }
    Ok(rest)
}

/// What the underlay's driver has to carry.
pub(super) fn options(config: &Config) -> UnderlayOptions {
    let network = &config.cluster.network;
    UnderlayOptions {
        address: config.node.underlay,
        udp_port: network.uses(Encap::Vxlan).then_some(network.udp_port),
        ipip: network.uses(Encap::Ipip),
        zero_udp_checksum: !network.udp_checksum,
        may_fragment: !network.outer_df,
    }
}

/// What carries tunnel packets to the wire and back.
pub(super) enum Opened {
    /// Nothing of this node: there are no tunnels, or an appliance has the underlay.
    Nothing,
    /// Sockets, those of each worker.
    Sockets(Vec<Underlay>),
    /// A TAP that is to be joined to the underlay's device, and the socket that keeps the
    /// tunnels' UDP port.
    Tap(Tap, Option<Socket>),
}

/// How tunnel packets get to the wire.
pub(super) struct Way {
    pub(super) opened: Opened,
    /// What a raw port is to know.
    pub(super) reach: Option<Reach>,
    /// In words which one it is, and why.
    pub(super) why: String,
}

/// Opens what the encapsulations in use need of this node's kernel.
pub(super) async fn open(
    config: &Config,
    (netlink, underlay): (&Netlink, &UnderlayLink),
) -> Result<Way, StartError> {
    let options = options(config);
    let none = |why: &str| Way {
        opened: Opened::Nothing,
        reach: None,
        why: why.to_owned(),
    };
    // Whatever the configuration says now, an earlier daemon may have left some.
    wire::sweep(config, netlink).await?;
    if config.offload.is_some() {
        return Ok(none("the appliance"));
    }
    if options.udp_port.is_none() && !options.ipip {
        return Ok(none("none: there are no tunnels"));
    }
    let device = &config.underlay.device;
    let why = match config.underlay.driver {
        UnderlayDriver::Socket => "as configured".to_owned(),
        UnderlayDriver::Tap => match wire::open(config, (netlink, underlay)).await {
            Ok((tap, reach)) => {
                let why = format!("tap {device}: as configured");
                return with_tap((tap, reach, why), options).await;
            }
            Err(why) => {
                return Err(StartError(format!(
                    "underlay.driver is \"tap\", and that cannot be: {why}; set it to \"auto\" or \"socket\""
                )));
            }
        },
        UnderlayDriver::Auto => match wire::open_if_best(config, (netlink, underlay)).await {
            Ok((tap, reach)) => {
                let link = &underlay.link.name;
                let why = format!("tap {device}: every node is reached by {link} in VXLAN");
                return with_tap((tap, reach, why), options).await;
            }
            Err(why) => why,
        },
    };
    Ok(Way {
        opened: Opened::Sockets(named(Underlay::bind_all(options, config.workers.count)).await?),
        reach: None,
        why: format!("sockets: {why}"),
    })
}

async fn with_tap(
    (tap, reach, why): (Tap, Reach, String),
    options: UnderlayOptions,
) -> Result<Way, StartError> {
    // Nobody else is to receive there, and what passes by the filters for a moment is
    // not to be answered with an error.
    let sockets = SocketOptions {
        receive_buffer: 1, // The least that the kernel has; nobody reads.
        ..SocketOptions::default()
    };
    let reserve = |port| Socket::udp(SocketAddr::new(options.address, port), sockets);
    let reserved = named(options.udp_port.map(reserve).transpose()).await?;
    Ok(Way {
        opened: Opened::Tap(tap, reserved),
        reach: Some(reach),
        why,
    })
}

/// With an error that tells who is in the way.
async fn named<T>(bound: Result<T, SocketError>) -> Result<T, StartError> {
    match bound {
        Ok(bound) => Ok(bound),
        Err(SocketError::Bind {
            address, source, ..
        }) => {
            let why = whois::explain_bind_error(None, address, &source).await;
            Err(StartError(format!("no underlay socket: {why}")))
        }
        Err(error) => Err(start_error(error)),
    }
}
