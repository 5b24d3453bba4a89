//! culvert's packet core.
//!
//! The core takes Ethernet frames from three kinds of ports (pods, the host,
//! the underlay), decides what happens to each, and rewrites it in place. It
//! knows neither Linux nor virtio: a shell hands it frames and a time and
//! carries out its verdict, a [`Fate`]. It has no heap, no `unsafe`, no I/O, no
//! clock and no logging.
//!
//! - [`Gateway`] is the datapath; it borrows a [`Storage`] whose capacities are
//!   const generics ([`Tiny`], [`Appliance`], [`Host`]).
//! - [`Frame`] is bytes with headroom and the offload state that the device gave.
//! - [`offload`] cuts super-frames into segments and joins segments into super-frames.
//! - [`channel`] is the control channel; its operations are the only way to change a table.
//!
//! # Example
//!
//! A pod asks who has its gateway, and the core answers:
//!
//! ```
//! use culvert_core::channel::*;
//! use culvert_core::*;
//!
//! // Large storages are statics or zeroed allocations; this one is tiny.
//! let mut storage: Tiny = Tiny::new();
//! let mut gateway = storage.gateway();
//! let pod = MacAddr::new([0x0a, 0x58, 10, 244, 1, 2]);
//! let operations = [
//!     Operation::UpsertPort(Port {
//!         id: PortId(0),
//!         mtu: 1500,
//!         mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
//!         offloads: Offloads::NONE,
//!         kind: PortKind::Underlay,
//!     }),
//!     Operation::UpsertNetwork(Network {
//!         id: NetworkId(0),
//!         vni: Vni::new(1).unwrap(),
//!         udp_port: 8472,
//!         local: "192.168.77.1".parse().unwrap(),
//!         vtep_mac: MacAddr::vtep_for("192.168.77.1".parse().unwrap()),
//!         gateways: heapless::Vec::from_slice(&["169.254.1.1".parse().unwrap()]).unwrap(),
//!         gateway_mac: MacAddr::new([0xee; 6]),
//!         node_addresses: heapless::Vec::new(),
//!         prefixes: heapless::Vec::new(),
//!         proxy: Proxy::LinkLocal,
//!         options: NetworkOptions::NONE,
//!         underlay: PortId(0),
//!     }),
//!     Operation::UpsertPort(Port {
//!         id: PortId(1),
//!         mtu: 1450,
//!         mac: pod,
//!         offloads: Offloads::NONE,
//!         kind: PortKind::Endpoint(Endpoint::with_address(
//!             NetworkId(0),
//!             "10.244.1.2".parse().unwrap(),
//!         )),
//!     }),
//! ];
//! gateway.apply(Owner::Cluster, &operations).unwrap();
//!
//! let request = [
//!     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0a, 0x58, 10, 244, 1, 2, 0x08, 0x06, // Ethernet
//!     0, 1, 8, 0, 6, 4, 0, 1, 0x0a, 0x58, 10, 244, 1, 2, 10, 244, 1, 2, // asks …
//!     0, 0, 0, 0, 0, 0, 169, 254, 1, 1, // … for 169.254.1.1
//! ];
//! let mut buffer = [0u8; 256];
//! buffer[Frame::HEADROOM..][..request.len()].copy_from_slice(&request);
//! let frame = Frame::new(&mut buffer, Frame::HEADROOM, request.len()).unwrap();
//! let mut batch = [Packet::new(frame)];
//! gateway.process(Instant::ZERO, PortId(1), &mut batch, &mut Originated::none());
//! assert_eq!(batch[0].fate, Fate::Reply);
//! assert_eq!(&batch[0].frame.bytes()[6..12], &[0xee; 6]);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod addr;
mod bucket;
pub mod channel;
mod events;
mod fate;
pub mod fib;
mod frame;
mod gateway;
mod neighbors;
pub mod offload;
mod pipeline;
mod tables;
pub mod wire;

pub use addr::{
    InvalidMac, InvalidPrefix, InvalidVni, IpPrefix, MacAddr, NetworkId, PeerId, PortId, Vni,
};
pub use fate::{Counter, DropReason, Fate};
pub use frame::{Checksum, Frame, FrameError, Outer, OuterL4, Segmentation};
pub use gateway::{Gateway, Instant, Originated, Packet};
pub use tables::error::{Reason, Table, TableError};
pub use tables::storage::{Appliance, Capacities, Host, Storage, Tiny};

/// The `heapless` that this crate's messages are made of, for shells that build them.
pub use heapless;
