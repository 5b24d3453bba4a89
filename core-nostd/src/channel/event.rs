//! What happened in the core, for people and for the control plane.

use core::net::IpAddr;
use core::time::Duration;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::events::KEPT;
use crate::{DropReason, MacAddr, PeerId, PortId};

/// Events that the core keeps, and that one answer has, at most.
pub const MAX_EVENTS: usize = 2 * KEPT;
/// Bytes of a dropped frame that its event has at most: Ethernet, IPv6, and the
/// ports or the type behind.
pub const HEADER_BYTES: usize = 64;

/// How long the core believes a path MTU that it was told of or learned (RFC 1191
/// section 6.3).
pub const PATH_MTU_LIFETIME: Duration = Duration::from_secs(600);

/// Something that happened. The core keeps the last few drops and, apart from
/// them, the last few things it learned; the older are lost, and counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its number: 1 is the first since the core booted, and none is left out. A
    /// core with another epoch has begun anew.
    pub sequence: u64,
    /// When, in microseconds of the clock that frames come with.
    pub micros: u64,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EventKind {
    /// A frame was dropped. Of each reason the first is told after a second
    /// without, within a limit for all; the counters have every one.
    Drop {
        /// Why.
        reason: DropReason,
        /// The port that it came in by.
        port: PortId,
        /// Its length in bytes.
        length: u16,
        /// Its first bytes as it was when it was dropped: a tunnel's header may
        /// have been taken off.
        header: Vec<u8, HEADER_BYTES>,
    },
    /// The core learned of a smaller MTU on the way to a peer; what
    /// [`super::Operation::SetPathMtu`] brought is not told. To be applied to all
    /// cores that have the peer.
    PathMtu {
        /// The peer.
        peer: PeerId,
        /// Largest outer IP packet in bytes.
        mtu: u16,
    },
    /// A neighbor of a raw Ethernet port has appeared, moved or gone: of each once a
    /// second at most, within a limit for all. One that flaps is told as it is by
    /// then; neighbors that are forgotten with their port, or make room for others
    /// in a full table, are not told.
    Neighbor {
        /// The port.
        port: PortId,
        /// The neighbor's address.
        address: IpAddr,
        /// Its MAC address; `None` when it no longer answers, or was of no use for
        /// so long that it is forgotten.
        mac: Option<MacAddr>,
    },
}
