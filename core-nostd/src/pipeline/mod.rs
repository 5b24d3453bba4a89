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
//! Each early exit is an [`Exit`] with one [`DropReason`].

mod decap;
mod deliver;
mod forward;
mod from_endpoint;
mod from_host;
mod from_underlay;
mod guard;
pub(crate) mod icmp;
mod local;
mod parse;
mod route;

use core::net::IpAddr;

use crate::tables::Tables;
use crate::tables::entry::PortRole;
use crate::wire::{ethernet, icmpv4, ipv4};
use crate::{DropReason, Fate, Frame, NetworkId, PortId};

pub(crate) use deliver::VXLAN_OVERHEAD_V4;

/// An IPv4 packet in its frame, with the proof of how far it has come.
pub(crate) struct Ip<'f, 'b, S> {
    frame: &'f mut Frame<'b>,
    header: ipv4::Header,
    state: S,
}

/// Header and lengths are right.
pub(crate) struct Parsed;

/// The sender may send it in this network.
pub(crate) struct Admitted {
    network: NetworkId,
}

/// There is a next hop.
pub(crate) struct Routed {
    hop: route::Hop,
}

/// It may be sent on: it lives long enough and fits.
pub(crate) struct Ready {
    hop: route::Hop,
    /// Whether this gateway counts as a hop for the packet; not for its own.
    age: bool,
}

impl<'f, 'b, S> Ip<'f, 'b, S> {
    fn with<T>(self, state: T) -> Ip<'f, 'b, T> {
        Ip {
            frame: self.frame,
            header: self.header,
            state,
        }
    }

    fn dst(&self) -> IpAddr {
        IpAddr::V4(self.header.dst)
    }

    fn src(&self) -> IpAddr {
        IpAddr::V4(self.header.src)
    }

    /// What follows the IP header.
    fn payload(&self) -> &[u8] {
        let start = ethernet::HEADER_LEN + usize::from(self.header.header_len);
        self.frame.bytes().get(start..).unwrap_or_default()
    }

    /// The IP header and what follows it.
    fn packet_mut(&mut self) -> &mut [u8] {
        let bytes = self.frame.bytes_mut();
        bytes.get_mut(ethernet::HEADER_LEN..).unwrap_or_default()
    }
}

/// An early exit: why, and what to tell the sender.
#[derive(Debug)]
pub(crate) struct Exit {
    reason: DropReason,
    icmp: Option<icmpv4::Error>,
}

impl Exit {
    pub(crate) fn is(&self, reason: DropReason) -> bool {
        self.reason == reason
    }
}

impl From<DropReason> for Exit {
    fn from(reason: DropReason) -> Self {
        Exit { reason, icmp: None }
    }
}

impl DropReason {
    /// Drops for this reason and sends an ICMP error to the sender.
    fn with(self, icmp: icmpv4::Error) -> Exit {
        Exit {
            reason: self,
            icmp: Some(icmp),
        }
    }
}

/// An ICMP error to be made.
pub(crate) struct IcmpError {
    pub(crate) error: icmpv4::Error,
    /// Whether the packet came from another node.
    from_underlay: bool,
}

/// Takes one frame from its port to its fate.
pub(crate) fn run(
    tables: &Tables<'_>,
    ingress: PortId,
    frame: &mut Frame<'_>,
) -> (Fate, Option<(NetworkId, IcmpError)>) {
    let Some(port) = tables.port(ingress) else {
        return (Fate::Drop(DropReason::PortUnknown), None);
    };
    let mut network = port.network;
    let result = match port.role {
        PortRole::Endpoint => from_endpoint::run(tables, port, frame),
        PortRole::Host => from_host::run(tables, port, frame),
        PortRole::Underlay => from_underlay::run(tables, ingress, frame, &mut network),
        PortRole::Absent => Err(DropReason::PortUnknown.into()),
    };
    match result {
        Ok(fate) => (fate, None),
        Err(exit) => {
            let from_underlay = port.role == PortRole::Underlay;
            let icmp = exit.icmp.map(|error| IcmpError {
                error,
                from_underlay,
            });
            (Fate::Drop(exit.reason), icmp.map(|icmp| (network, icmp)))
        }
    }
}
