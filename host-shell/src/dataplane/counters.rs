//! What the drivers tell: counts of things that happen outside the core, and the
//! ports that have stopped working.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use culvert_core::PortId;

/// Names and texts of the drivers' counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShellCounter {
    /// A TAP did not take a frame.
    TapTxFailed,
    /// A TAP's frame had a header that does not fit it.
    TapRxMalformed,
    /// The underlay's send buffer was full.
    UnderlayTxFull,
    /// The kernel refused to send a datagram.
    UnderlayTxFailed,
    /// A datagram was larger than its buffer.
    UnderlayRxTruncated,
    /// Peers reported errors by ICMP.
    UnderlayPeerErrors,
    /// A frame's port has no device any more.
    PortGone,
    /// A super-frame could not be cut into segments.
    SegmentFailed,
}

impl ShellCounter {
    /// All of them.
    pub const ALL: [ShellCounter; 8] = [
        ShellCounter::TapTxFailed,
        ShellCounter::TapRxMalformed,
        ShellCounter::UnderlayTxFull,
        ShellCounter::UnderlayTxFailed,
        ShellCounter::UnderlayRxTruncated,
        ShellCounter::UnderlayPeerErrors,
        ShellCounter::PortGone,
        ShellCounter::SegmentFailed,
    ];

    /// The name that `culvert counters` prints.
    pub const fn name(self) -> &'static str {
        match self {
            ShellCounter::TapTxFailed => "tap-tx-failed",
            ShellCounter::TapRxMalformed => "tap-rx-malformed",
            ShellCounter::UnderlayTxFull => "underlay-tx-full",
            ShellCounter::UnderlayTxFailed => "underlay-tx-failed",
            ShellCounter::UnderlayRxTruncated => "underlay-rx-truncated",
            ShellCounter::UnderlayPeerErrors => "underlay-peer-errors",
            ShellCounter::PortGone => "port-gone",
            ShellCounter::SegmentFailed => "segment-failed",
        }
    }

    /// What it counts, for the person who reads it.
    pub const fn help(self) -> &'static str {
        match self {
            ShellCounter::TapTxFailed => {
                "Frames that a TAP did not take: its interface is down or gone, or memory is short."
            }
            ShellCounter::TapRxMalformed => "Frames from a TAP whose virtio-net header is unknown.",
            ShellCounter::UnderlayTxFull => {
                "Tunnel packets dropped because the underlay socket's send buffer was full."
            }
            ShellCounter::UnderlayTxFailed => {
                "Tunnel packets that the kernel refused to send: no route to the peer, a packet filter, or larger than the underlay's MTU; or that the node has no socket for."
            }
            ShellCounter::UnderlayRxTruncated => {
                "Datagrams from the underlay that were larger than any frame."
            }
            ShellCounter::UnderlayPeerErrors => {
                "ICMP errors about tunnel packets: a peer's host is down or does not listen."
            }
            ShellCounter::PortGone => "Frames for a port whose device is gone.",
            ShellCounter::SegmentFailed => {
                "Super-frames dropped because their device's marks do not fit their bytes, so that they cannot be cut into packets."
            }
        }
    }
}

/// The values, written by the worker and read by anybody.
#[derive(Default)]
pub struct ShellCounters {
    values: [AtomicU64; ShellCounter::ALL.len()],
    /// Touched only when a port stops working or is attached or detached.
    failed: Mutex<BTreeMap<PortId, String>>,
}

impl ShellCounters {
    /// Counts `count` more.
    pub fn add(&self, counter: ShellCounter, count: u64) {
        // Single counts need no order among them.
        self.values[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// The value since the worker started.
    pub fn get(&self, counter: ShellCounter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    /// Remembers why a port is served no longer.
    pub(super) fn set_failed(&self, port: PortId, why: String) {
        self.failures().insert(port, why);
    }

    /// Forgets that a port had failed.
    pub(super) fn clear_failed(&self, port: PortId) {
        self.failures().remove(&port);
    }

    /// The ports whose device has failed, so that they are served no longer, and
    /// what the kernel said.
    pub fn failed(&self) -> BTreeMap<PortId, String> {
        self.failures().clone()
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<PortId, String>> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner())
    }
}
