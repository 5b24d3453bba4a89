//! The memory of a gateway, with capacities as const generics.

use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, Immutable};

use super::Tables;
use super::entry::{NetworkEntry, PeerEntry, PortEntry, RouteEntry};
use super::room::Used;
use super::routes::{MAX_PEERS, MAX_PORTS, Routes};
use super::sync::Progress;
use super::underlays::Underlays;
use crate::Counter;
use crate::fib::FibStorage;
use crate::gateway::{Gateway, State};
use crate::neighbors::{BUCKET, Entry, Head, Neighbors, Slot};

/// The memory of one gateway: all its tables, for this many networks, ports
/// (endpoints among them), peers and routes (an endpoint's addresses among them),
/// and for raw Ethernet ports this many neighbors on their links and packets that
/// wait for one. The others size the FIB's lookup structure; see [`FibStorage`].
///
/// All-zero memory is an empty storage. Small ones can be made with
/// [`Storage::new`]; large ones belong in a zeroed allocation
/// (`zerocopy::FromZeros::new_box_zeroed`, with zerocopy's feature `alloc`) and
/// never on a stack.
#[derive(FromZeros, Immutable)]
pub struct Storage<
    const NETWORKS: usize,
    const PORTS: usize,
    const PEERS: usize,
    const ROUTES: usize,
    const NEIGHBORS: usize = 8,
    const WAITING: usize = 2,
    const ROOT: usize = 1,
    const SHORT: usize = 1,
    const PAGES: usize = 3,
> {
    networks: [NetworkEntry; NETWORKS],
    ports: [PortEntry; PORTS],
    peers: [PeerEntry; PEERS],
    routes: FibStorage<RouteEntry, NETWORKS, ROUTES, ROOT, SHORT, PAGES>,
    peers_by_underlay: [[u32; 2]; PEERS],
    neighbors: [[Entry; 2]; NEIGHBORS],
    waiting: [Slot; WAITING],
    neighbors_head: Head,
    used: Used,
    tunnel_ports: u64,
    sync: Progress,
    counters: [u64; Counter::SLOTS],
    state: State,
}

/// For a microcontroller: a handful of pods.
pub type Tiny = Storage<2, 8, 8, 64, 8, 1>;
/// For an appliance or a SmartNIC.
pub type Appliance = Storage<8, 4096, 4096, 65_536, 1024, 64, 65_536, 256, 4096>;
/// For a Linux host. 1 M routes are an allocation of some 117 MB of which only
/// what is used is ever touched.
pub type Host = Storage<16, 4096, 16_384, 1_000_000, 64, 16, 65_536, 256, 32_768>;

/// How many entries the tables can hold.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, FromZeros, Immutable,
)]
pub struct Capacities {
    /// Networks.
    pub networks: u32,
    /// Ports, endpoints among them.
    pub ports: u32,
    /// Peers, over all networks.
    pub peers: u32,
    /// Routes, over all networks.
    pub routes: u32,
}

impl<
    const NETWORKS: usize,
    const PORTS: usize,
    const PEERS: usize,
    const ROUTES: usize,
    const NEIGHBORS: usize,
    const WAITING: usize,
    const ROOT: usize,
    const SHORT: usize,
    const PAGES: usize,
> Storage<NETWORKS, PORTS, PEERS, ROUTES, NEIGHBORS, WAITING, ROOT, SHORT, PAGES>
{
    /// Ids of networks are 16 bits wide, as are the places of neighbors and their
    /// slots; those of ports and peers fit into the FIB's codes. Neighbors fill buckets.
    const FITS: () = assert!(
        NETWORKS > 0
            && NETWORKS <= 1 << 16
            && PORTS <= MAX_PORTS
            && PEERS <= MAX_PEERS
            && NEIGHBORS > 0
            && NEIGHBORS <= 1 << 15
            && (NEIGHBORS * 2).is_multiple_of(BUCKET)
            && WAITING < 1 << 16
    );

    /// An empty storage, by value: for small ones.
    pub fn new() -> Self {
        Self::new_zeroed()
    }

    /// The gateway that lives in this storage, as it was left.
    pub fn gateway(&mut self) -> Gateway<'_> {
        const { Self::FITS };
        Gateway {
            tables: Tables {
                networks: &mut self.networks,
                ports: &mut self.ports,
                peers: &mut self.peers,
                routes: Routes(self.routes.fib()),
                peers_by_underlay: Underlays {
                    slots: self.peers_by_underlay.as_flattened_mut(),
                },
                neighbors: Neighbors {
                    entries: self.neighbors.as_flattened_mut(),
                    slots: &mut self.waiting,
                    head: &mut self.neighbors_head,
                },
                used: &mut self.used,
                tunnel_ports: &mut self.tunnel_ports,
                sync: &mut self.sync,
            },
            counters: &mut self.counters,
            state: &mut self.state,
        }
    }
}

impl<
    const NETWORKS: usize,
    const PORTS: usize,
    const PEERS: usize,
    const ROUTES: usize,
    const NEIGHBORS: usize,
    const WAITING: usize,
    const ROOT: usize,
    const SHORT: usize,
    const PAGES: usize,
> Default for Storage<NETWORKS, PORTS, PEERS, ROUTES, NEIGHBORS, WAITING, ROOT, SHORT, PAGES>
{
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn sizes_are_known_and_stay_within_their_targets() {
        let kib = |bytes: usize| bytes.div_ceil(1024);
        let sizes = [
            ("Tiny", kib(size_of::<Tiny>()), 20),
            ("Appliance", kib(size_of::<Appliance>()), 16 << 10),
            ("Host", kib(size_of::<Host>()), 240 << 10),
        ];
        for (name, kib, limit) in sizes {
            std::println!("{name}: {kib} KiB");
            assert!(kib <= limit, "{name} has grown to {kib} KiB");
        }
    }
}
