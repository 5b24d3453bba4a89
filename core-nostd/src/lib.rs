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
//! # Writing a shell
//!
//! A shell reads frames from devices, gives them to the core, and does what the
//! core says. It needs:
//!
//! - a [`Storage`], as a static or in zeroed memory when it is large: all-zero
//!   memory is an empty storage. [`Storage::gateway`] gives the [`Gateway`].
//! - entries in the tables, by [`Gateway::apply`] or, where the control plane is
//!   elsewhere, by [`channel::serve`] with what a [`channel::FrameDecoder`] finds.
//!   Networks and ports come before what refers to them.
//! - buffers with [`Frame::HEADROOM`] free bytes in front of each frame, where the
//!   core puts outer headers.
//! - spare frames ([`Originated`]) for what the core sends of its own: ICMP errors,
//!   fragments, questions to neighbors. They are sent as the batch is.
//! - a clock ([`Instant`]) that does not go backwards. Where a port is raw Ethernet
//!   ([`channel::PortKind::Wire`]), [`Gateway::tick`] wants it every 100 ms.
//!
//! Each frame has one [`Fate`] after [`Gateway::process`]. What is forwarded or
//! replied is sent with its marks: [`Frame::checksum`] and [`Frame::segmentation`]
//! say what the device still has to do, and [`Frame::outer`] is the outer header
//! for a port made of sockets ([`channel::PortKind::Underlay`]), whose frame begins
//! with the VXLAN header. On a raw Ethernet port the frame is complete.
//!
//! # Example
//!
//! A pod's packet goes into a VXLAN tunnel to another node:
//!
//! ```
//! use culvert_core::{channel::*, *};
//!
//! let mut storage = Tiny::new();
//! let mut gateway = storage.gateway();
//! let (underlay, pod, network) = (PortId(0), PortId(1), NetworkId(0));
//! let mac = MacAddr::new([0x0a, 0x58, 10, 244, 1, 2]);
//! let endpoint = Endpoint::with_address(network, "10.244.1.2".parse().unwrap());
//! let local = "192.168.77.1".parse().unwrap();
//! let peer = Peer::new(PeerId(0), network, "192.168.77.2".parse().unwrap());
//! let pods_there = IpPrefix::new("10.244.2.0".parse().unwrap(), 24).unwrap();
//! let operations = [
//!     Operation::UpsertPort(Port::new(underlay, 1500, PortKind::Underlay)),
//!     Operation::UpsertNetwork(Network::new(network, Vni::new(1).unwrap(), local, underlay)),
//!     Operation::UpsertPort(Port::endpoint(pod, 1450, mac, endpoint)),
//!     Operation::UpsertPeer(peer.clone()),
//!     Operation::UpsertRoute(peer.route(pods_there, Encap::Vxlan)),
//! ];
//! gateway.apply(Owner::Cluster, &operations).unwrap();
//!
//! let from_pod: &[u8] = b"\xee\xee\xee\xee\xee\xee\x0a\x58\x0a\xf4\x01\x02\x08\x00\
//!     \x45\0\0\x1c\0\x01\x40\0\x40\x11\x21\xe0\x0a\xf4\x01\x02\x0a\xf4\x02\x07\
//!     \x10\0\x20\0\0\x08\0\0"; // Ethernet, IPv4 10.244.1.2 to 10.244.2.7, UDP
//! let (mut buffer, mut spare, mut sent) = ([0; 2048], [0; 2048], vec![]);
//! for (port, received) in [(pod, from_pod)] { // what the devices bring
//!     buffer[Frame::HEADROOM..][..received.len()].copy_from_slice(received);
//!     let frame = Frame::new(&mut buffer, Frame::HEADROOM, received.len()).unwrap();
//!     let mut batch = [Packet::new(frame)];
//!     let mut spares = [Packet::new(Frame::new(&mut spare, 0, 0).unwrap())];
//!     let mut made = Originated::new(&mut spares);
//!     gateway.process(Instant::ZERO, port, &mut batch, &mut made);
//!     for Packet { frame, fate } in batch.iter().chain(&*made.into_made()) {
//!         match *fate {
//!             Fate::Forward(out) => sent.push((out, frame.outer.unwrap())), // to a device
//!             Fate::Reply => println!("back by port {port}: {:x?}", frame.bytes()),
//!             fate => println!("not sent: {fate:?}"),
//!         }
//!     }
//! }
//! assert_eq!((sent[0].0, sent[0].1.src, sent[0].1.dst), (underlay, local, peer.underlay));
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
