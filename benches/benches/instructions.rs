//! Instructions that a packet takes on its way through the core, counted under
//! valgrind: 64-byte frames in batches of 64, 10,000 routes, 256 peers. They
//! repeat exactly, so that a change of them is a change of the code.
#![allow(missing_docs, reason = "the macros make undocumented items")]

use std::hint::black_box;

use culvert_benches::scene::{self, Frames};
use culvert_core::channel::Encap;
use culvert_core::{Appliance, Fate, Gateway, Host};
use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint};

const ROUTES: u32 = 10_000;

enum Tables {
    Appliance(Box<Appliance>),
    Host(Box<Host>),
}

impl Tables {
    fn gateway(&mut self) -> Gateway<'_> {
        match self {
            Self::Appliance(storage) => storage.gateway(),
            Self::Host(storage) => storage.gateway(),
        }
    }
}

struct Case {
    storage: Tables,
    frames: Frames,
    slots: Vec<u8>,
}

fn case(frames: Frames, encap: Encap) -> Case {
    Case {
        storage: Tables::Appliance(scene::storage(ROUTES, encap)),
        slots: frames.slots(),
        frames,
    }
}

fn encap(by: Encap) -> Case {
    case(scene::from_pod(ROUTES), by)
}

fn decap(by: Encap) -> Case {
    case(scene::from_tunnel(ROUTES, by), by)
}

/// The same on a raw Ethernet port whose neighbors are known; `checksum`: the outer
/// UDP header has one.
fn wire(frames: Frames, by: Encap, checksum: bool) -> Case {
    Case {
        storage: Tables::Appliance(scene::wire::storage(ROUTES, by, checksum)),
        slots: frames.slots(),
        frames,
    }
}

fn encap_on_wire(by: Encap, checksum: bool) -> Case {
    wire(scene::from_pod(ROUTES), by, checksum)
}

fn decap_on_wire(by: Encap, checksum: bool) -> Case {
    let frames = scene::wire::from_wire(ROUTES, by, checksum);
    wire(frames, by, checksum)
}

/// All packets to one peer.
fn encap_to_one() -> Case {
    wire(scene::from_pod(1), Encap::Vxlan, false)
}

/// All packets from one peer.
fn decap_from_one() -> Case {
    let frames = scene::wire::from_wire(1, Encap::Vxlan, false);
    wire(frames, Encap::Vxlan, false)
}

/// So many routes in the tables of a Linux host, and packets to as many of them as a
/// batch has.
fn encap_with(routes: u32) -> Case {
    let frames = scene::from_pod(routes);
    Case {
        storage: Tables::Host(scene::host_storage(routes, Encap::Vxlan)),
        slots: frames.slots(),
        frames,
    }
}

fn run(mut case: Case) -> bool {
    let mut gateway = case.storage.gateway();
    let mut packets = case.frames.packets(&mut case.slots);
    scene::process(&mut gateway, case.frames.ingress, black_box(&mut packets));
    let forwarded = |fate| matches!(fate, Fate::Forward(_));
    packets.iter().all(|packet| forwarded(packet.fate))
}

#[library_benchmark]
#[bench::encap_vxlan(encap(Encap::Vxlan))]
#[bench::encap_ipip(encap(Encap::Ipip))]
#[bench::decap_vxlan(decap(Encap::Vxlan))]
#[bench::decap_ipip(decap(Encap::Ipip))]
#[bench::wire_encap_vxlan(encap_on_wire(Encap::Vxlan, false))]
#[bench::wire_encap_vxlan_checksum(encap_on_wire(Encap::Vxlan, true))]
#[bench::wire_encap_ipip(encap_on_wire(Encap::Ipip, true))]
#[bench::wire_decap_vxlan(decap_on_wire(Encap::Vxlan, false))]
#[bench::wire_decap_vxlan_checksum(decap_on_wire(Encap::Vxlan, true))]
#[bench::wire_decap_ipip(decap_on_wire(Encap::Ipip, true))]
#[bench::wire_encap_vxlan_to_one(encap_to_one())]
#[bench::wire_decap_vxlan_from_one(decap_from_one())]
#[bench::encap_vxlan_routes_10(encap_with(10))]
#[bench::encap_vxlan_routes_1000(encap_with(1_000))]
#[bench::encap_vxlan_routes_100000(encap_with(100_000))]
fn batch(case: Case) {
    assert!(run(case));
}

library_benchmark_group!(name = pipeline; benchmarks = batch);
main!(
    config = LibraryBenchmarkConfig::default().tool(
        Callgrind::default().entry_point(EntryPoint::Custom("*::scene::process".to_owned()))
    );
    library_benchmark_groups = pipeline
);
