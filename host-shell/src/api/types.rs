//! What the daemon tells about itself.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// This node's name in the cluster file.
    pub node: String,
    /// The core's epoch, in hexadecimal (JSON numbers are not exact above 2⁵³).
    pub epoch: String,
    /// Version of the control protocol that daemon and core speak.
    pub core_protocol: String,
    /// How full each of the core's tables is.
    pub tables: Vec<TableUse>,
    /// The device that tunnels leave by.
    pub underlay: Underlay,
    /// How packets get to other nodes: `vxlan`, `ipip`, `direct`, `cross-subnet, vxlan`.
    pub encapsulation: String,
    /// MTU of the pods' interfaces in bytes.
    pub pod_mtu: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Number of pod interfaces.
    pub endpoints: u32,
    /// What is wrong at the moment, a sentence each; empty if all is well.
    pub problems: Vec<String>,
    /// The last time that the configuration was read again, if it was.
    #[serde(default)]
    pub reloaded: Option<Reloaded>,
    /// Who forwards: `host`, this node itself, or `offload`, an appliance.
    #[serde(default = "host_mode")]
    pub mode: String,
    /// In offload mode the devices for pods.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// In offload mode what forwards.
    #[serde(default)]
    pub appliance: Option<Appliance>,
    /// In host mode the threads that forward.
    #[serde(default)]
    pub workers: Vec<Worker>,
}

/// A thread that forwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, from 0.
    pub number: u32,
    /// The processor that it was told to run on; `None` where the kernel chooses.
    pub cpu: Option<u32>,
    /// Packets that it has taken in.
    pub packets: u64,
}

fn host_mode() -> String {
    "host".to_owned()
}

/// The devices that pods are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Those that can be taken now.
    pub free: u32,
    /// All of the configuration.
    pub devices: u32,
}

/// An appliance as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// Where its control channel is.
    pub channel: String,
    /// How the channel is: `connected`, `is being told its tables`, or `not reached` with
    /// the time and the reason.
    pub state: String,
    /// Its architecture, version and sizes; `None` when it does not tell.
    pub description: Option<String>,
    /// How it is; `None` when it does not tell.
    pub health: Option<Health>,
    /// Its NICs.
    pub nics: Vec<Nic>,
}

/// How an appliance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Turns of its main loop.
    pub turns: u64,
    /// Turns that took longer than a turn may take.
    pub stalls: u64,
    /// The longest turn in microseconds.
    pub longest_turn_micros: u32,
    /// Frames that went through its core.
    pub frames: u64,
    /// Buffers that are free.
    pub buffers_free: u16,
    /// Frames whose port has no NIC, or which a tag does not fit in front of.
    pub unsent: u64,
    /// Frames that the core made, for which there was no buffer.
    pub no_buffer: u64,
    /// The most bytes of stack that were ever in use; 0 where that is not known.
    pub stack: u32,
}

/// A NIC of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its MAC address.
    pub mac: Mac,
    /// What it is for: `port 3`, `trunk, ports from 100 on`, `management`, `unused`.
    pub role: String,
    /// Frames received.
    pub rx_frames: u64,
    /// Of those, frames that no port took.
    pub rx_unclaimed: u64,
    /// Of those, frames that were too long.
    pub rx_too_long: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames that found no room in the send queue.
    pub tx_full: u64,
}

/// What came of reading the configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many seconds ago.
    pub seconds_ago: u64,
    /// What has changed, a line each.
    pub changes: Vec<String>,
}

/// How full a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Name of the table.
    pub table: String,
    /// Entries in it.
    pub used: u32,
    /// Entries it has room for.
    pub capacity: u32,
}

/// The underlay device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Its name.
    pub device: String,
    /// This node's address on it.
    pub address: IpAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How tunnel packets get to it, and why so: `tap culvert-ul: …`, `sockets: …`.
    #[serde(default)]
    pub driver: String,
}

/// A pod's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The interface's MAC.
    pub mac: Mac,
    /// The container it belongs to.
    pub container_id: String,
    /// Its name in the container.
    pub ifname: String,
    /// Path of the container's network namespace.
    pub netns: String,
    /// The core's port.
    pub port: u16,
    /// `adding` while ADD is on its way, then `ready`; `differs` or `cut off` when the
    /// packet core has something else than ADD gave it, or nothing.
    pub state: String,
}

/// A route in the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network's name.
    pub network: String,
    /// What it matches.
    pub prefix: IpNet,
    /// Where it leads: `endpoint 3`, `host`, `peer n2 vxlan`, `blackhole`.
    pub next_hop: String,
    /// Who made it: `attachment` or `cluster`.
    pub owner: String,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name in the cluster file.
    pub name: String,
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// The MAC of its tunnel endpoint.
    pub vtep_mac: Mac,
    /// Its own addresses that pods may talk to.
    pub node_addresses: Vec<IpAddr>,
    /// How packets get to it; more than one where it depends on their IP version.
    pub sent_by: Vec<String>,
    /// Largest packet of a pod that gets there, as far as is known, in bytes.
    pub mtu: u32,
    /// Largest tunnel packet, outer header included, that routers on the way said they
    /// take; `None` while none has said that the underlay device's MTU is too much.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// The encapsulations accepted from it.
    pub encapsulations: Vec<String>,
    /// Number of routes that lead to it.
    pub routes: u32,
}

/// A counter of the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its value since the core started.
    pub value: u64,
    /// What it counts, in a sentence.
    pub help: String,
}

/// What happened, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// What is kept behind the number asked for.
    pub events: Vec<Event>,
    /// Events behind that number that nobody has any more.
    pub lost: u64,
    /// The number of the last event; where to go on.
    pub last: u64,
}

/// Something that happened in the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number since the daemon started, from 1.
    pub number: u64,
    /// When the daemon learned of it, which takes half a second: milliseconds since 1970.
    pub unix_millis: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A frame was dropped: the first of its reason after a second without.
    Drop {
        /// Why, as the counter is called.
        reason: String,
        /// Why, in a sentence.
        help: String,
        /// The port that it came in by.
        port: String,
        /// Its length in bytes.
        length: u16,
        /// Who sent what to whom.
        packet: String,
    },
    /// Packets to a node must be smaller from now on.
    PathMtu {
        /// The node's name.
        peer: String,
        /// Its address on the underlay.
        underlay: Option<IpAddr>,
        /// Largest tunnel packet in bytes, outer header included.
        mtu: u16,
    },
    /// A neighbor on the link of a raw underlay port has appeared, moved or gone.
    Neighbor {
        /// The port.
        port: String,
        /// Its address.
        address: IpAddr,
        /// Its MAC address; `None` when it is lost.
        mac: Option<Mac>,
    },
}
