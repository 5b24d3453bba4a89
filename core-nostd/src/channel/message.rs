//! The messages of the control channel.
//!
//! Order of variants and fields is the encoding. Append variants; never add,
//! remove or reorder fields.

#![allow(
    clippy::large_enum_variant,
    reason = "there is no heap to put the large ones on"
)]

use core::fmt;
use core::net::IpAddr;

use heapless::Vec;
use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, Immutable};

use super::{Board, BoardAnswer, Error, Event, MAX_EVENTS, Sync, Synced};
use crate::tables::storage::Capacities;
use crate::{IpPrefix, MacAddr, NetworkId, PeerId, PortId, TableError, Vni};

/// Operations in one [`Request::Apply`] at most; so many of the largest, with
/// IPv6 addresses throughout, fit a message (of networks, 14).
pub const MAX_OPERATIONS: usize = 24;
/// Routes, peers or counters in one page at most.
pub const PAGE: usize = 32;
/// Networks or ports in one page at most; they are larger.
pub const SMALL_PAGE: usize = 12;
/// Addresses or prefixes that one entry has at most.
pub const MAX_ADDRESSES: usize = crate::tables::entry::KEYS;

/// A protocol version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Must be equal at both ends.
    pub major: u16,
    /// Counts appended variants.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the shell asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// First of all: agree on the protocol, learn capacities and epoch.
    Hello(Hello),
    /// Change tables, all or nothing.
    Apply(Apply),
    /// Read a page of a table as the core has it.
    Read(Read),
    /// Read a page of the counters, from this number on.
    Counters {
        /// First counter number wanted.
        from: u16,
    },
    /// Answered by `Pong` when the core is alive.
    Ping,
    /// Replace all entries of one owner without a gap, see [`Sync`].
    Sync(Sync),
    /// Read what happened, see [`Event`].
    Events {
        /// The number of the last event read; 0 starts with the oldest that is kept.
        after: u64,
    },
    /// Not for the core but for the shell around it, see [`Board`].
    Board(Board),
}

/// What the core answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To `Hello`.
    Hello(Welcome),
    /// To `Apply`: every later frame is forwarded by the new tables.
    Applied {
        /// The transaction of the request.
        transaction: u64,
    },
    /// To `Apply` and `Sync`: nothing was changed.
    Refused(Refusal),
    /// To `Read`.
    Page(Page),
    /// To `Counters`: (number, value) pairs.
    Counters {
        /// Numbers as in [`crate::Counter::number`].
        values: Vec<(u16, u64), PAGE>,
        /// Where the next page starts; `None` at the end.
        next: Option<u16>,
    },
    /// To `Ping`.
    Pong,
    /// The request could not be carried out at all.
    Error(Error),
    /// To `Sync`: how far it is. A refused one is answered by `Refused`.
    Synced(Synced),
    /// To `Events`.
    Events {
        /// What is kept behind the number asked for, oldest first: all of it.
        events: Vec<Event, MAX_EVENTS>,
        /// Events between the number asked for and the last that are no longer kept.
        lost: u64,
    },
    /// To `Board`, where there is a shell that knows it.
    Board(BoardAnswer),
}

/// Opens a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The shell's protocol version.
    pub version: Version,
    /// The epoch that a freshly booted core is to take; random, not 0.
    pub epoch: u64,
    /// The shell's [`super::SCHEMA`], for information.
    pub schema: u32,
}

/// Answers [`Hello`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The core's protocol version.
    pub version: Version,
    /// The core's epoch before this `Hello`: 0 when it has just booted, in
    /// which case its tables are empty and it has now taken the offered one.
    pub previous_epoch: u64,
    /// The core's epoch from now on.
    pub epoch: u64,
    /// The core's [`super::SCHEMA`], for information.
    pub schema: u32,
    /// What the tables can hold.
    pub capacities: Capacities,
    /// Entries in use now, in the order of [`Capacities`].
    pub used: Capacities,
}

/// A transaction of one owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Apply {
    /// Chosen by the shell; comes back in the answer.
    pub transaction: u64,
    /// Who will own what is written.
    pub owner: Owner,
    /// Carried out in this order.
    pub operations: Vec<Operation, MAX_OPERATIONS>,
}

/// Who an entry belongs to. Nobody changes an entry of another owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, FromZeros, Immutable)]
#[repr(u8)]
pub enum Owner {
    /// Made by CNI ADD on this node.
    Attachment = 0,
    /// Learned from the cluster's configuration.
    Cluster = 1,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Attachment => "attachment",
            Owner::Cluster => "cluster",
        })
    }
}

/// One change. Upserts add or replace, removals of what is not there succeed, so
/// that a transaction can be sent again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Add or replace a network.
    UpsertNetwork(Network),
    /// Remove a network that nothing refers to.
    RemoveNetwork(NetworkId),
    /// Add or replace a port and, for an endpoint, its host routes.
    UpsertPort(Port),
    /// Remove a port and, for an endpoint, its host routes.
    RemovePort(PortId),
    /// Add or replace a peer.
    UpsertPeer(Peer),
    /// Remove a peer that no route leads to.
    RemovePeer(PeerId),
    /// Add or replace a route.
    UpsertRoute(Route),
    /// Remove a route.
    RemoveRoute {
        /// The route's network.
        network: NetworkId,
        /// The route's prefix.
        prefix: IpPrefix,
    },
    /// Tell the core of a smaller MTU on the way to a peer (RFC 1191), which it
    /// forgets after ten minutes; 0 makes it forget at once. No owner is needed.
    SetPathMtu {
        /// The peer.
        peer: PeerId,
        /// Largest outer IP packet in bytes.
        mtu: u16,
    },
}

/// An overlay network as this node is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Its index.
    pub id: NetworkId,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP port of the tunnels, both ends.
    pub udp_port: u16,
    /// This node's underlay address; all peers have one of the same IP version.
    pub local: IpAddr,
    /// This node's VTEP MAC address in the network.
    pub vtep_mac: MacAddr,
    /// Addresses that the gateway answers ARP, neighbor discovery and ping for;
    /// the first of a packet's IP version is the source of ICMP errors to this
    /// node's pods and host.
    pub gateways: Vec<IpAddr, MAX_ADDRESSES>,
    /// The gateway's MAC address on every port.
    pub gateway_mac: MacAddr,
    /// This node's own addresses in the network: the first of a packet's IP
    /// version is the source of ICMP errors about packets from other nodes.
    pub node_addresses: Vec<IpAddr, MAX_ADDRESSES>,
    /// The prefixes that the network's pods have their addresses from.
    pub prefixes: Vec<IpPrefix, MAX_ADDRESSES>,
    /// Whom the gateway stands in for.
    pub proxy: Proxy,
    /// What is switched on.
    pub options: NetworkOptions,
    /// The underlay port that tunnels leave by.
    pub underlay: PortId,
}

/// Which addresses the gateway answers ARP and neighbor solicitations for.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize, FromZeros, Immutable,
)]
#[repr(u8)]
pub enum Proxy {
    /// Its own ([`Network::gateways`]): pods route everything through a
    /// link-local gateway and have no neighbors.
    #[default]
    LinkLocal = 0,
    /// Its own, and every address inside [`Network::prefixes`] but the asker's:
    /// pods take the whole network for their link.
    Network = 1,
}

/// Switches of a network, one bit for each.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromZeros, Immutable,
)]
pub struct NetworkOptions(u8);

impl NetworkOptions {
    /// Nothing is switched on.
    pub const NONE: NetworkOptions = NetworkOptions(0);
    /// Broadcast and multicast of pods is copied to every local port and peer.
    pub const FLOOD: NetworkOptions = NetworkOptions(1);
    /// The MSS option of TCP SYNs is lowered to what fits the next hop (RFC 4459
    /// section 3.2).
    pub const CLAMP_MSS: NetworkOptions = NetworkOptions(2);
    /// Outer UDP checksums are zero (RFC 7348 section 4.3; over IPv6 RFC 6935).
    pub const ZERO_UDP_CHECKSUM: NetworkOptions = NetworkOptions(4);
    /// Outer IPv4 headers have no don't-fragment flag: routers may fragment
    /// tunnel packets.
    pub const OUTER_MAY_FRAGMENT: NetworkOptions = NetworkOptions(8);

    /// Both sets' switches.
    #[must_use]
    pub const fn with(self, other: NetworkOptions) -> Self {
        NetworkOptions(self.0 | other.0)
    }

    /// Whether all switches of `other` are on.
    pub const fn has(self, other: NetworkOptions) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Its index.
    pub id: PortId,
    /// Largest IP packet that goes out of it, in bytes.
    pub mtu: u16,
    /// MAC address of what is behind it: the pod's, the host's; of a wire, its
    /// own. Not looked at for underlay ports behind sockets.
    pub mac: MacAddr,
    /// What its device does for the frames that leave by it.
    pub offloads: Offloads,
    /// What it is for.
    pub kind: PortKind,
}

/// What a device does for the frames that it sends, one bit for each.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromZeros, Immutable,
)]
pub struct Offloads(u8);

impl Offloads {
    /// Nothing.
    pub const NONE: Offloads = Offloads(0);
    /// It finishes a partial checksum of a packet that is in no tunnel.
    pub const CHECKSUM: Offloads = Offloads(1);
    /// It finishes a partial checksum inside a tunnel.
    pub const TUNNEL_CHECKSUM: Offloads = Offloads(2);
    /// A raw port finishes the checksum of a tunnel's own UDP, around a packet whose
    /// checksum is finished.
    pub const OUTER_CHECKSUM: Offloads = Offloads(4);

    /// Both sets' offloads.
    #[must_use]
    pub const fn with(self, other: Offloads) -> Self {
        Offloads(self.0 | other.0)
    }

    /// Whether all of `other` are there.
    pub const fn has(self, other: Offloads) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a port is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PortKind {
    /// A pod.
    Endpoint(Endpoint),
    /// The host's own network stack.
    Host {
        /// The network that the host is in by this port.
        network: NetworkId,
    },
    /// The underlay behind sockets: tunnel packets arrive and leave without their
    /// outer headers, which are in [`crate::Frame::outer`].
    Underlay,
    /// The underlay as raw Ethernet: the core writes the outer headers and
    /// resolves neighbors itself.
    Wire(Wire),
}

/// A raw Ethernet port's place in the underlay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wire {
    /// Its own addresses, each with the length of the prefix that is on the link.
    pub addresses: Vec<WireAddress, MAX_ADDRESSES>,
    /// Gateways for all other addresses, at most one of each IP version.
    pub gateways: Vec<IpAddr, 2>,
}

/// An address of a raw Ethernet port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WireAddress {
    /// The address.
    pub address: IpAddr,
    /// How many of its leading bits the neighbors on the link share.
    pub prefix_length: u8,
}

/// A pod's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its network.
    pub network: NetworkId,
    /// Its addresses; each becomes a host route to the port.
    pub addresses: Vec<IpAddr, MAX_ADDRESSES>,
    /// Further prefixes that it may send from.
    pub allowed: Vec<IpPrefix, MAX_ADDRESSES>,
}

/// Another node, in one network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its index.
    pub id: PeerId,
    /// The network.
    pub network: NetworkId,
    /// Its underlay address.
    pub underlay: IpAddr,
    /// Its VTEP MAC address in the network.
    pub vtep_mac: MacAddr,
    /// Addresses of the node itself, allowed as inner source.
    pub node_addresses: Vec<IpAddr, MAX_ADDRESSES>,
    /// Encapsulations accepted from it.
    pub accepts: EncapSet,
    /// Whether packets from this peer may go on to another transit peer.
    pub transit: bool,
}

/// How a packet gets to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, FromZeros, Immutable)]
#[repr(u8)]
pub enum Encap {
    /// VXLAN (RFC 7348).
    Vxlan = 0,
    /// IP in IP: IPv4 or IPv6 in either (RFC 2003, RFC 2473, RFC 4213).
    Ipip = 1,
    /// No tunnel: the peer is on the underlay's own link.
    Direct = 2,
}

impl Encap {
    /// How to reach a peer where tunnels are wanted across subnets only: no
    /// tunnel when the peer is in this node's own underlay `subnet`. A subnet of
    /// one address has no neighbors.
    pub fn cross_subnet(subnet: IpPrefix, peer: IpAddr, tunnel: Encap) -> Encap {
        let single = subnet == IpPrefix::host(subnet.address());
        match subnet.contains(peer) && !single {
            true => Encap::Direct,
            false => tunnel,
        }
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encap::Vxlan => "vxlan",
            Encap::Ipip => "ipip",
            Encap::Direct => "direct",
        })
    }
}

/// A set of encapsulations, one bit for each.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromZeros, Immutable,
)]
pub struct EncapSet(u8);

impl EncapSet {
    /// The set of these.
    pub fn of(encaps: &[Encap]) -> Self {
        EncapSet(encaps.iter().fold(0, |set, encap| set | 1 << *encap as u8))
    }

    /// Whether the set has it.
    pub const fn contains(self, encap: Encap) -> bool {
        self.0 & 1 << encap as u8 != 0
    }
}

/// Where packets for a prefix go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, FromZeros, Immutable)]
#[repr(u8)]
pub enum NextHop {
    /// Nowhere; ICMP host unreachable tells the sender.
    Blackhole = 0,
    /// This node's own network stack.
    Host,
    /// A pod of this node.
    Endpoint(PortId),
    /// Another node.
    Peer {
        /// Which.
        peer: PeerId,
        /// How.
        encap: Encap,
    },
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Its network.
    pub network: NetworkId,
    /// What it covers.
    pub prefix: IpPrefix,
    /// Where to.
    pub next_hop: NextHop,
}

/// Asks for the entries that follow a key; `None` starts at the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Read {
    /// Networks, by id.
    Networks {
        /// The last id of the page before.
        after: Option<NetworkId>,
    },
    /// Ports and endpoints, by id.
    Ports {
        /// The last id of the page before.
        after: Option<PortId>,
    },
    /// Peers, by id.
    Peers {
        /// The last id of the page before.
        after: Option<PeerId>,
    },
    /// Routes, by network and prefix.
    Routes {
        /// The last key of the page before.
        after: Option<(NetworkId, IpPrefix)>,
    },
}

/// A page of a table. It is the last when it is empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Page {
    /// Networks.
    Networks(Vec<Owned<Network>, SMALL_PAGE>),
    /// Ports and endpoints, with what went through them.
    Ports(Vec<(Owned<Port>, PortStats), SMALL_PAGE>),
    /// Peers, with the number of routes to each.
    Peers(Vec<(Owned<Peer>, u32), PAGE>),
    /// Routes.
    Routes(Vec<Owned<Route>, PAGE>),
}

/// An entry and who owns it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owned<T> {
    /// Who owns it.
    pub owner: Owner,
    /// The entry.
    pub entry: T,
}

/// What went through a port. A super-frame counts as the packets that it stands for.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromZeros, Immutable,
)]
pub struct PortStats {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// Their bytes, Ethernet header included.
    pub rx_bytes: u64,
    /// Frames that the core sent out of the port, its own included.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames from the port that were dropped.
    pub dropped: u64,
}

/// A refused transaction or sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The transaction of the request.
    pub transaction: u64,
    /// Index of the operation that was refused; 0 of a `Sync`.
    pub operation: u8,
    /// Why.
    pub error: TableError,
}
