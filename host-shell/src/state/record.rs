//! The records of the database, and what they are made from.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::PortDevice;
use crate::mac::Mac;

/// What identifies an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The runtime's identifier of the container.
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
}

/// How far ADD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Begun: parts of it may exist.
    Intent,
    /// Done: all of it exists.
    Committed,
}

/// What identifies a network namespace for as long as it lives, unlike its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev` of the namespace's file.
    pub dev: u64,
    /// `st_ino` of the namespace's file.
    pub ino: u64,
}

/// What ADD wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Path of the pod's network namespace.
    pub netns: String,
    /// Which namespace the path meant at the time.
    pub netns_id: NetnsId,
    /// These addresses, at most one of each IP version, and no others of theirs.
    pub addresses: Vec<IpAddr>,
    /// A MAC other than the derived one.
    pub mac: Option<Mac>,
    /// Name of the CNI network configuration that asks for it.
    pub configuration: String,
    /// The devices of which one is to be taken, with its port; `None` where the device
    /// is made for the pod, and any port is as good.
    pub devices: Option<DevicePool>,
}

/// Devices that wait for pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePool {
    /// All, in the order in which they are taken.
    pub all: Vec<PortDevice>,
    /// Those among them that are there to be taken.
    pub present: Vec<PortDevice>,
}

/// What was made for an attachment; known when it is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Index of the pod's interface in its namespace.
    pub ifindex: u32,
    /// MTU of the pod's interface in bytes.
    pub mtu: u32,
}

/// A pod's attachment as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Container and interface.
    pub key: Key,
    /// How far it has come.
    pub phase: Phase,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// Which namespace the path meant when ADD came.
    pub netns_id: NetnsId,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// MAC of the pod's interface.
    pub mac: Mac,
    /// The core's port.
    pub port: u16,
    /// The network's name.
    pub network: String,
    /// Name of the CNI network configuration that asked for it; older records lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The device of the node's pool that the pod's interface is; `None` for one that was
    /// made for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What was made; all zero before the commit.
    pub host: HostFacts,
    /// Seconds since 1970 when it was reserved.
    pub created: u64,
}
