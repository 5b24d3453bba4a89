//! What a host asks of the shell around the core where that is a device of its own:
//! its NICs and their roles, its health, its management port. The core does not know
//! these; [`super::serve_with`] hands them to the shell.

#![allow(
    clippy::large_enum_variant,
    reason = "there is no heap to put the large ones on"
)]

use core::fmt;
use core::net::IpAddr;

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use super::{MAX_ADDRESSES, SMALL_PAGE, WireAddress};
use crate::{MacAddr, PortId};

/// Bytes of a pre-shared key.
pub const KEY_LEN: usize = 32;

/// A pre-shared key, which is not shown where a message is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresharedKey(pub [u8; KEY_LEN]);

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// A question to the shell. Roles, management addresses and key are forgotten when
/// the device restarts; all may be told again at any time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Board {
    /// What the device is. Answered by [`BoardAnswer::Description`].
    Describe,
    /// Its NICs, from this index on. Answered by [`BoardAnswer::Nics`].
    Nics {
        /// First index wanted.
        from: u8,
    },
    /// What a NIC is for, whatever its MAC address says.
    SetRole {
        /// The NIC's own MAC address.
        mac: MacAddr,
        /// Its role from now on.
        role: Role,
    },
    /// How the device is. Answered by [`BoardAnswer::Health`].
    Health,
    /// The addresses of the management port; none closes it. Other ones than before end
    /// the connections to it.
    SetManagement(Management),
    /// The pre-shared key of the control channel's TCP port; `None` closes the port.
    /// Another one than before ends the connections to it.
    SetKey {
        /// The key.
        key: Option<PresharedKey>,
    },
    /// Lets the device's clock stand at a time instead of going on, until it
    /// restarts: for tests, which need to see the same bytes each time. Other images than
    /// theirs refuse it.
    HoldClock {
        /// Microseconds since the device started.
        micros: u64,
        /// Whether to do what is due at that time.
        tick: bool,
    },
    /// Starts the device anew; the answer may be lost.
    Restart,
    /// Switches the device off; the answer may be lost.
    PowerOff {
        /// What an emulator ends with.
        status: u8,
    },
}

/// What a shell answers to [`Board`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BoardAnswer {
    /// To `Describe`.
    Description(Description),
    /// To `Nics`: empty behind the last.
    Nics(Vec<Nic, SMALL_PAGE>),
    /// To `Health`.
    Health(Health),
    /// It is so from now on.
    Done,
    /// Nothing was changed.
    Refused(BoardRefusal),
}

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Its processor's architecture, as the compiler calls it.
    pub architecture: String<16>,
    /// The version of its firmware.
    pub version: String<24>,
    /// Number of NICs.
    pub nics: u8,
    /// Bytes that a frame may have, Ethernet header included.
    pub largest_frame: u16,
    /// Frames that it has buffers for.
    pub buffers: u16,
    /// Whether it can be managed by TCP once a key is set.
    pub management: bool,
}

/// What a NIC is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Role {
    /// Nothing: what comes in is dropped.
    #[default]
    Unused,
    /// It is one port.
    Port(PortId),
    /// Each 802.1Q tag is a port: the number `base` and the VLAN identifier make
    /// the port's. Frames without a tag are dropped.
    Trunk {
        /// The number that the tags are added to.
        base: u16,
    },
    /// The device's own management.
    Management,
}

impl Role {
    /// First bytes of a MAC address that tells its NIC's role: a kind and a number of 16
    /// bits, big endian, follow.
    const PREFIX: [u8; 3] = [0x02, 0x63, 0x76];

    /// The MAC address that gives a NIC this role without a word from the host:
    /// 02:63:76, 01 for a port, 02 for a trunk and 03 for management, then the
    /// port's number or the trunk's base. Zero for `Unused`.
    pub const fn mac(self) -> MacAddr {
        let (kind, number) = match self {
            Role::Unused => return MacAddr::ZERO,
            Role::Port(port) => (1, port.0),
            Role::Trunk { base } => (2, base),
            Role::Management => (3, 0),
        };
        let [a, b, c] = Self::PREFIX;
        let [high, low] = number.to_be_bytes();
        MacAddr::new([a, b, c, kind, high, low])
    }

    /// The role that a MAC address tells; `Unused` when it tells none.
    pub const fn of(mac: MacAddr) -> Role {
        let [a, b, c, kind, high, low] = mac.bytes();
        let [x, y, z] = Self::PREFIX;
        if a != x || b != y || c != z {
            return Role::Unused;
        }
        let number = u16::from_be_bytes([high, low]);
        match kind {
            1 => Role::Port(PortId(number)),
            2 => Role::Trunk { base: number },
            3 => Role::Management,
            _ => Role::Unused,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Unused => f.write_str("unused"),
            Role::Port(port) => write!(f, "port {port}"),
            Role::Trunk { base } => write!(f, "trunk, ports from {base} on"),
            Role::Management => f.write_str("management"),
        }
    }
}

/// A NIC and what went through it, counted by the driver: frames that the core
/// drops are in its own counters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nic {
    /// Its own MAC address.
    pub mac: MacAddr,
    /// What it is for.
    pub role: Role,
    /// Frames received.
    pub rx_frames: u64,
    /// Of those, frames that no port took: without a role, without a tag on a trunk,
    /// or with one that is no port's.
    pub rx_unclaimed: u64,
    /// Of those, frames that were longer than [`Description::largest_frame`] and went no
    /// further.
    pub rx_too_long: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames that found no room in the send queue.
    pub tx_full: u64,
}

/// How a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// Microseconds since it started.
    pub micros: u64,
    /// Turns of its main loop.
    pub turns: u64,
    /// Turns that took longer than a turn may take.
    pub stalls: u64,
    /// The longest turn, in microseconds.
    pub longest_turn: u32,
    /// Frames that went through the core.
    pub frames: u64,
    /// Instructions that the turns with frames took, where the processor counts
    /// them; else 0.
    pub instructions: u64,
    /// Buffers that are free now.
    pub buffers_free: u16,
    /// Frames whose port has no NIC, or which a trunk's tag does not fit in front of.
    pub unsent: u64,
    /// Frames that the core made, for which there was no buffer.
    pub no_buffer: u64,
    /// The most bytes of stack that were ever in use; 0 where that is not known.
    pub stack: u32,
    /// Connections to the management's TCP port that ended before they had shown the
    /// key: with another key, with bytes that are no handshake, or in silence.
    pub refused: u32,
}

/// The management port's place in its network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Management {
    /// Its own addresses.
    pub addresses: Vec<WireAddress, MAX_ADDRESSES>,
    /// Gateways for all other addresses, at most one of each IP version.
    pub gateways: Vec<IpAddr, 2>,
    /// The TCP port of the control channel, which stays closed without a key; 0 is none.
    pub tcp_port: u16,
}

/// Why a shell did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BoardRefusal {
    /// No NIC has this MAC address.
    NoNic(MacAddr),
    /// Another NIC has this role, or a trunk has the port.
    RoleTaken(Role),
    /// The device has no port of this number.
    NoPort(PortId),
    /// This image was built without management.
    NoManagement,
    /// This image was built without authentication, and a port without it stays closed.
    NoAuthentication,
    /// There is no source of randomness, without which no key is safe.
    NoRandomness,
    /// It is not of a form that the device can use.
    Address(IpAddr),
    /// This image's clock cannot be held: it was built without the feature for tests.
    ClockRuns,
}

impl fmt::Display for BoardRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoardRefusal::NoNic(mac) => write!(f, "no NIC has the MAC address {mac}"),
            BoardRefusal::RoleTaken(role) => write!(f, "another NIC is {role} already"),
            BoardRefusal::NoPort(port) => write!(f, "the device has no port {port}"),
            BoardRefusal::NoManagement => {
                f.write_str("this image has no management: build it with the feature `management`")
            }
            BoardRefusal::NoAuthentication => f.write_str(
                "this image cannot authenticate anybody: build it with the feature `management-auth`",
            ),
            BoardRefusal::NoRandomness => {
                f.write_str("the device has no source of randomness: give it a virtio-rng")
            }
            BoardRefusal::ClockRuns => f.write_str(
                "this image's clock cannot be held: build it with the feature `held-clock`",
            ),
            BoardRefusal::Address(address) => {
                write!(f, "{address} cannot be an address of the management port")
            }
        }
    }
}

impl core::error::Error for BoardRefusal {}
