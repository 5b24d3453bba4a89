//! A packet's way through the core.
//!
//! Three directions, one file each; each file reads from top to bottom as the
//! packet goes. The stages between are shared, and their types carry proof:
//!
//! ```text
//! parse ─ Ip<Parsed> ─ guard ─ Ip<Admitted> ─ route ─ Ip<Routed> ─ forward ─ Ip<Ready> ─ deliver ─ port
//! ```
//!
//! An unparsed frame cannot be routed, an unrouted one cannot be encapsulated.
//! Each early exit is an [`Exit`]: a [`DropReason`], or more frames than one.

mod decap;
mod deliver;
pub(crate) mod fast;
pub(crate) mod flood;
mod forward;
pub(crate) mod fragment;
mod from_endpoint;
mod from_host;
mod from_underlay;
mod guard;
pub(crate) mod icmp;
pub(crate) mod link;
mod local;
pub(crate) mod outer;
mod parse;
mod route;

use core::net::IpAddr;

use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::wire::{ethernet, icmp as message, ip};
use crate::{DropReason, Fate, Frame, Instant, NetworkId, Packet, PeerId, PortId};

pub(crate) use deliver::LARGEST_OVERHEAD;

/// What a batch is decided by.
#[derive(Clone, Copy)]
pub(crate) struct Context<'t, 'a> {
    pub(crate) tables: &'t Tables<'a>,
    pub(crate) now: Instant,
    /// The port that the batch came in by.
    pub(crate) ingress: PortId,
}

/// What is the same for all frames of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'t, 'a> {
    context: Context<'t, 'a>,
    port: &'t PortEntry,
    /// The network of an endpoint's or the host's port.
    network: Option<&'t NetworkEntry>,
}

/// An IP packet in its frame, with the proof of how far it has come.
pub(crate) struct Ip<'f, 'b, S> {
    frame: &'f mut Frame<'b>,
    /// Not by value: each step would copy it.
    header: &'f mut ip::Header,
    state: S,
}

/// Header and lengths are right.
pub(crate) struct Parsed;

/// The sender may send it in this network.
pub(crate) struct Admitted<'t> {
    network: &'t NetworkEntry,
}

/// There is a next hop.
pub(crate) struct Routed<'t> {
    hop: route::Hop<'t>,
}

/// It may be sent on: it lives long enough and fits.
pub(crate) struct Ready<'t> {
    hop: route::Hop<'t>,
    /// Whether this gateway counts as a hop for the packet; not for its own.
    age: bool,
}

impl<'f, 'b, S> Ip<'f, 'b, S> {
    #[inline(always)]
    fn with<T>(self, state: T) -> Ip<'f, 'b, T> {
        Ip {
            frame: self.frame,
            header: self.header,
            state,
        }
    }

    #[inline(always)]
    fn dst(&self) -> IpAddr {
        self.header.dst
    }

    #[inline(always)]
    fn src(&self) -> IpAddr {
        self.header.src
    }

    /// What follows the IP headers.
    fn payload(&self) -> &[u8] {
        let start = ethernet::HEADER_LEN + usize::from(self.header.header_len);
        self.frame.bytes().get(start..).unwrap_or_default()
    }

    /// What follows the IP headers.
    fn payload_mut(&mut self) -> &mut [u8] {
        let start = ethernet::HEADER_LEN + usize::from(self.header.header_len);
        self.frame.bytes_mut().get_mut(start..).unwrap_or_default()
    }

    /// The IP header and what follows it.
    fn packet_mut(&mut self) -> &mut [u8] {
        let bytes = self.frame.bytes_mut();
        bytes.get_mut(ethernet::HEADER_LEN..).unwrap_or_default()
    }

    /// Whether it goes to a UDP port of DHCP servers (RFC 2131, RFC 8415).
    #[inline(always)]
    fn is_for_dhcp(&self) -> bool {
        let to_server = matches!(self.header.ports, Some((_, 67 | 547)));
        to_server && self.header.protocol == ip::UDP
    }

    /// The ICMPv6 message type, if this is ICMPv6 that has one.
    #[inline(always)]
    fn icmpv6_type(&self) -> Option<u8> {
        if !self.header.is_v6() || self.header.protocol != ip::ICMPV6 {
            return None;
        }
        let first = self.header.fragment != ip::Fragment::Later;
        self.payload().first().copied().filter(|_| first)
    }
}

/// An early exit: why, and what to tell the sender; or what further frames are
/// to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    Drop {
        reason: DropReason,
        icmp: Option<message::Error>,
    },
    /// Cut it into fragments that fit.
    Fragment { mtu: u16 },
    /// Copy it to every port and peer of the network but where it came from.
    Flood { from: Option<PeerId> },
    /// A raw port's neighbors speak of themselves or of the path: see [`link`].
    Link,
}

impl Exit {
    pub(crate) fn is(&self, wanted: DropReason) -> bool {
        matches!(self, Exit::Drop { reason, .. } if *reason == wanted)
    }
}

impl From<DropReason> for Exit {
    fn from(reason: DropReason) -> Self {
        Exit::Drop { reason, icmp: None }
    }
}

impl DropReason {
    /// Drops for this reason and sends an ICMP error to the sender.
    fn with(self, icmp: message::Error) -> Exit {
        Exit::Drop {
            reason: self,
            icmp: Some(icmp),
        }
    }
}

impl<'t, 'a> Arrival<'t, 'a> {
    /// What frames come in by the context's port to; `None` when there is no such port.
    pub(crate) fn new(context: Context<'t, 'a>) -> Option<Self> {
        let tables = context.tables;
        let port = tables.port(context.ingress)?;
        Some(Arrival {
            context,
            port,
            network: tables.network(port.network),
        })
    }

    /// Decides about the packets at the front of a batch that need no second look, of
    /// which each is one packet. What leaves by a raw port is as it is on the wire.
    pub(crate) fn run_fast(&self, run: &mut fast::Run, batch: &mut [Packet<'_>]) {
        fast::run(run, self, batch);
    }

    /// Takes one frame from its port to its fate, or to an exit in a network.
    #[inline(never)]
    pub(crate) fn run(&self, frame: &mut Frame<'_>) -> Result<Fate, (NetworkId, Exit)> {
        let mut network = self.port.network;
        let result = match self.port.role {
            PortRole::Endpoint => from_endpoint::run(self, frame),
            PortRole::Host => from_host::run(self, frame),
            PortRole::Underlay | PortRole::Wire => from_underlay::run(self, frame, &mut network),
            PortRole::Absent => Err(DropReason::PortUnknown.into()),
        };
        result.map_err(|exit| (network, exit))
    }
}

/// Sends a frame of the gateway's own making on its way, as any packet to that
/// destination would go; returns the port it leaves by. `age`: the gateway counts
/// as a hop, since the packet is part of one that it forwards.
fn send(
    context: Context<'_, '_>,
    network: NetworkId,
    frame: &mut Frame<'_>,
    age: bool,
) -> Result<PortId, Exit> {
    let network = context.tables.network(network);
    let network = network.ok_or(DropReason::NoRoute)?;
    let mut room = None;
    let packet = parse::ip(frame, &mut room)?.with(Admitted { network });
    onward(context, packet, Sender::Gateway { age })
}

/// Who sent what is to go on.
enum Sender<'t> {
    Endpoint,
    Host,
    Peer(PeerId, &'t PeerEntry),
    /// This gateway made it, or checked it before; `age` is as of [`send`].
    Gateway {
        age: bool,
    },
    /// This gateway copied it, for this hop.
    Copy(route::Hop<'t>),
}

/// The rest of every packet's way: route → TTL, MTU → delivery.
#[inline(never)]
fn onward(
    context: Context<'_, '_>,
    packet: Ip<'_, '_, Admitted<'_>>,
    sender: Sender<'_>,
) -> Result<PortId, Exit> {
    let hop = match sender {
        Sender::Copy(hop) => hop,
        _ => route::lookup(context, &packet)?,
    };
    let packet = packet.with(Routed { hop });
    let packet = match sender {
        Sender::Copy(_) => {
            forward::fits(&packet)?;
            forward::unchecked(packet, false)
        }
        Sender::Gateway { age } => forward::unchecked(packet, age),
        Sender::Endpoint => forward::check(packet)?,
        Sender::Host => {
            forward::leaves_host(&packet)?;
            forward::check(packet)?
        }
        Sender::Peer(id, peer) => {
            forward::transits(&packet, (id, peer))?;
            forward::check(packet)?
        }
    };
    deliver::deliver(packet)
}
