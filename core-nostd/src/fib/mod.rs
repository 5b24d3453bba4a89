//! The FIB: longest-prefix match for IPv4 and IPv6 in fixed memory.
//!
//! Many FIBs, each known by its number, share one storage. Two layers: the prefix
//! store (`store.rs`) is exact and ordered and alone keeps the promise of capacity;
//! the lookup structure (`node.rs` of `unit.rs`, written by `update.rs`, read by
//! `family.rs` and `batch.rs`; for IPv6 also `shortcut.rs`) is made for speed and holds
//! results rather than routes. Where its memory does
//! not suffice, a lookup goes on in the store: slower, never wrong. What this was
//! chosen from and what it measures is in `README.md` beside this file.
//!
//! # Bounds
//!
//! A lookup reads a root slot and a node for each eight bits behind the root's (at
//! most 2 for IPv4 and 14 for IPv6 with [`HostFib`]), and where it ends in the store
//! at most 64 forks twice for IPv4, 256 for IPv6. An update walks the store once or
//! twice and rewrites what one stride holds: at most 128 root slots or 256 short
//! codes, or 128 slots of a node with their nodes: 4,600 places in memory in sets
//! made to be the worst.

use zerocopy::{FromZeros, Immutable};

mod batch;
mod bits;
mod family;
mod leaf;
mod node;
mod pages;
mod shortcut;
mod steps;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod unit;
mod update;

pub use bits::{Bits, Prefix};
use family::Family;
pub use family::Root;
use node::{Nodes, Slot};
use pages::{GRANULE, Meta, PAGE, Pages};
use shortcut::{Bucket, Shortcuts};
use store::{Entry, Fork, Link, Store};
pub use table::Address;
use update::Update;

/// What the FIB keeps for a prefix.
pub trait Value: Copy + FromZeros + Immutable {
    /// What lookups answer, not 0. Routes that are equal here share memory.
    fn code(&self) -> u16;
}

/// Numbers beyond 65,535 are taken as that.
impl Value for u32 {
    fn code(&self) -> u16 {
        u16::try_from(*self).unwrap_or(u16::MAX)
    }
}

/// The FIB has no room for another prefix; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Root slots and short codes of one family, of all FIBs.
#[derive(FromZeros, Immutable)]
#[repr(C, align(64))]
struct Roots<const FIBS: usize, const ROOT: usize, const SHORT: usize> {
    slots: [[Slot; ROOT]; FIBS],
    shorts: [[u32; SHORT]; FIBS],
    tries: [Link; FIBS],
}

/// Memory that starts at a cache line.
#[derive(FromZeros, Immutable)]
#[repr(C, align(64))]
struct Aligned<T>(T);

/// The memory of several FIBs: `FIBS` of them, with room for `ROUTES` prefixes over
/// all, IPv4 and IPv6 in any mix. All-zero memory is empty.
///
/// The others size the lookup structure. `ROOT` (1 or 65,536) and `SHORT` (a power
/// of two, at least `ROOT` / 256, at most 4,096) are the tables that the first bits index; `PAGES`
/// of 1,152 bytes hold the nodes behind, of eight bits each, and IPv6 leaves, to which as
/// many buckets of 64 bytes are shortcuts.
#[derive(FromZeros, Immutable)]
#[repr(C)]
pub struct FibStorage<
    V,
    const FIBS: usize,
    const ROUTES: usize,
    const ROOT: usize,
    const SHORT: usize,
    const PAGES: usize,
> {
    v4_roots: Roots<FIBS, ROOT, SHORT>,
    v6_roots: Roots<FIBS, ROOT, SHORT>,
    pages: Aligned<[[u8; PAGE]; PAGES]>,
    metas: [Meta; PAGES],
    buckets: [Bucket; PAGES],
    v4_entries: [Entry<u32, V>; ROUTES],
    v4_forks: [Fork; ROUTES],
    v6_entries: [Entry<u128, V>; ROUTES],
    v6_forks: [Fork; ROUTES],
    v4_state: store::State,
    v6_state: store::State,
    nodes_state: node::State,
    pages_state: pages::State,
    shortcuts_state: shortcut::State,
    state: State,
}

/// What is of the FIBs as a whole.
#[derive(Clone, Copy, FromZeros, Immutable)]
struct State {
    /// Prefixes to pass by yet, because something found no room.
    heal: u32,
    /// Where that goes on: the FIB, and a prefix that was passed.
    fib: u32,
    after_bits: u128,
    after_length: u8,
    /// Whether there is such a prefix, and whether it is IPv6.
    after: bool,
    v6: bool,
}

/// Memory in use, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Of the prefix store.
    pub store: usize,
    /// Of the lookup structure: pages of nodes and leaves, and the root tables of all FIBs
    /// that have a prefix.
    pub lookup: usize,
    /// Whether some lookups may end in the store for want of memory, or until an update
    /// passes by: updates heal that, and [`Fib::heal`].
    pub pressed: bool,
}

/// The FIBs in a borrowed [`FibStorage`].
pub struct Fib<'a, V> {
    v4: Family<'a, u32, V>,
    v6: Family<'a, u128, V>,
    nodes: Nodes<'a>,
    state: &'a mut State,
    capacity: u32,
}

impl<
    V: Value,
    const FIBS: usize,
    const ROUTES: usize,
    const ROOT: usize,
    const SHORT: usize,
    const PAGES: usize,
> FibStorage<V, FIBS, ROUTES, ROOT, SHORT, PAGES>
{
    /// Roots resolve whole bytes, and those of one slot are fewer than those of 16 bits
    /// have for one FIB; a prefix covers at most half of 256 root slots,
    /// and slots can name all granules.
    const FITS: () = assert!(
        ROUTES <= store::MAX_ENTRIES
            && (ROOT == 1 && FIBS < 1 << 16 || ROOT == 1 << 16)
            && SHORT.is_power_of_two()
            && SHORT <= ROOT
            && SHORT <= 1 << 12
            && ROOT / SHORT <= update::MAX_ROOTS
            && PAGES > 0
            && PAGES * (PAGE / GRANULE) <= node::MAX_GRANULES
    );

    /// The FIBs that live in this storage, as they were left.
    pub fn fib(&mut self) -> Fib<'_, V> {
        const { Self::FITS };
        Fib {
            v4: family(
                &mut self.v4_roots,
                Store {
                    entries: &mut self.v4_entries,
                    forks: &mut self.v4_forks,
                    state: &mut self.v4_state,
                },
            ),
            v6: family(
                &mut self.v6_roots,
                Store {
                    entries: &mut self.v6_entries,
                    forks: &mut self.v6_forks,
                    state: &mut self.v6_state,
                },
            ),
            nodes: Nodes {
                state: &mut self.nodes_state,
                pages: Pages {
                    bytes: self.pages.0.as_flattened_mut(),
                    metas: &mut self.metas,
                    state: &mut self.pages_state,
                },
                shortcuts: Shortcuts {
                    buckets: &mut self.buckets,
                    state: &mut self.shortcuts_state,
                },
            },
            state: &mut self.state,
            capacity: u32::try_from(ROUTES).unwrap_or(u32::MAX),
        }
    }
}

fn family<'a, B, V, const FIBS: usize, const ROOT: usize, const SHORT: usize>(
    roots: &'a mut Roots<FIBS, ROOT, SHORT>,
    store: Store<'a, B, V>,
) -> Family<'a, B, V> {
    let bits = |size: usize| u8::try_from(size.trailing_zeros()).unwrap_or(0);
    Family {
        store,
        tries: &mut roots.tries,
        roots: roots.slots.as_flattened_mut(),
        shorts: roots.shorts.as_flattened_mut(),
        stride: bits(ROOT),
        short: bits(SHORT),
    }
}

/// The FIB of a microcontroller: 64 routes.
pub type TinyFib<V> = FibStorage<V, 2, 64, 1, 1, 3>;
/// The FIB of an appliance: 64 k routes.
pub type ApplianceFib<V> = FibStorage<V, 8, 65_536, 65_536, 256, 4096>;
/// The FIB of a Linux host: 1 M routes.
pub type HostFib<V> = FibStorage<V, 16, 1_000_000, 65_536, 256, 32_768>;
