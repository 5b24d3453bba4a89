//! What the tables hold: plain data whose all-zero form is "absent".

use core::net::{IpAddr, Ipv4Addr};

use zerocopy::{FromZeros, Immutable};

use crate::addr::{Family, Key};
use crate::channel::{EncapSet, NetworkOptions, NextHop, Offloads, Owner, PortStats, Proxy};
use crate::fib::{Fib, Value};
use crate::pipeline::icmp;
use crate::{Instant, IpPrefix, MacAddr, NetworkId, PortId, Vni};

/// Addresses or prefixes that one entry may have.
pub(crate) const KEYS: usize = 4;

/// Up to [`KEYS`] addresses or prefixes.
#[derive(Clone, Copy, PartialEq, Eq, FromZeros, Immutable)]
pub(crate) struct KeyList {
    count: u8,
    families: [Family; KEYS],
    lengths: [u8; KEYS],
    /// IPv4 bits; 0 where the key is IPv6, or there is none.
    v4: [u32; KEYS],
    /// IPv6 bits; 0 where the key is IPv4, or there is none.
    v6: [u128; KEYS],
}

impl KeyList {
    /// The keys of the iterator, as many as fit.
    pub(crate) fn new(keys: impl Iterator<Item = Key>) -> Self {
        let mut list = Self::new_zeroed();
        for key in keys {
            list.push(key);
        }
        list
    }

    /// These addresses, as many as fit.
    pub(crate) fn of_addresses(addresses: &[IpAddr]) -> Self {
        Self::new(addresses.iter().map(|address| Key::host(*address)))
    }

    /// These prefixes, as many as fit.
    pub(crate) fn of_prefixes(prefixes: &[IpPrefix]) -> Self {
        Self::new(prefixes.iter().map(|prefix| prefix.key()))
    }

    /// Adds a key, if it fits.
    #[inline(never)]
    fn push(&mut self, key: Key) {
        let index = usize::from(self.count);
        let slots = self
            .families
            .get_mut(index)
            .zip(self.lengths.get_mut(index));
        let bits = self.v4.get_mut(index).zip(self.v6.get_mut(index));
        let Some(((family, length), (v4, v6))) = slots.zip(bits) else {
            return;
        };
        (*family, *length) = (key.family, key.length);
        match key.family {
            Family::V4 => *v4 = key.bits_v4(),
            Family::V6 => *v6 = key.bits,
        }
        self.count += 1;
    }

    #[inline(never)]
    fn get(&self, index: usize) -> Option<Key> {
        if index >= usize::from(self.count) {
            return None;
        }
        let length = *self.lengths.get(index)?;
        match self.families.get(index)? {
            Family::V4 => Some(Key::v4(*self.v4.get(index)?, length)),
            Family::V6 => Some(Key {
                family: Family::V6,
                bits: *self.v6.get(index)?,
                length,
            }),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Key> + '_ {
        (0..KEYS).map_while(|index| self.get(index))
    }

    /// The first key of the same IP version as `address`.
    pub(crate) fn first_like(&self, address: IpAddr) -> Option<IpAddr> {
        let mut addresses = self.iter().map(Key::address);
        addresses.find(|own| own.is_ipv6() == address.is_ipv6())
    }

    /// Whether one of the addresses in a list of addresses is this one. Nobody has
    /// 0.0.0.0 or `::`.
    #[inline(always)]
    pub(crate) fn has<A: Lookup>(&self, address: A) -> bool {
        address.is_in(self)
    }

    /// The longest IPv4 prefix that holds all IPv4 addresses of a list of addresses, as
    /// bits and mask; of an empty list one that holds 0.0.0.0 only.
    pub(crate) fn common_v4(&self) -> (u32, u32) {
        let mut addresses = self.v4.iter().copied().filter(|address| *address != 0);
        let first = addresses.next().unwrap_or(0);
        let differ = addresses.fold(0, |bits, address| bits | address ^ first);
        let mask = u32::MAX.checked_shl(32 - differ.leading_zeros());
        (first, mask.unwrap_or(0))
    }

    /// The first IPv4 address of a list of addresses.
    pub(crate) fn host_v4(&self) -> Option<Ipv4Addr> {
        let bits = self.v4.iter().find(|address| **address != 0)?;
        Some(Ipv4Addr::from_bits(*bits))
    }

    /// The first IPv4 prefix of the list, as bits and mask; when there is none, one
    /// that holds 0.0.0.0 only.
    pub(crate) fn first_v4(&self) -> (u32, u32) {
        let first = self.iter().find(|key| key.family == Family::V4);
        first.map_or((0, u32::MAX), |key| {
            let hosts = u32::MAX.checked_shr(key.length.into()).unwrap_or(0);
            (key.bits_v4(), !hosts)
        })
    }

    /// How many different keys of this list the other does not have.
    pub(crate) fn count_not_in(&self, other: &KeyList) -> u32 {
        let new = self.iter().enumerate().filter(|(index, key)| {
            let repeated = self.iter().take(*index).any(|earlier| earlier == *key);
            !repeated && other.iter().all(|theirs| theirs != *key)
        });
        u32::try_from(new.count()).unwrap_or(u32::MAX)
    }

    /// Whether one of the keys covers this address.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        let wanted = Key::host(address);
        self.iter().any(|key| key.covers(wanted))
    }
}

/// An address as the tables are asked for it: of IPv4, where nothing asks again
/// whether it is that, or of either version.
pub(crate) trait Lookup: Copy {
    /// Whether it is among the addresses of a list.
    fn is_in(self, list: &KeyList) -> bool;

    /// The code of its route in a FIB.
    fn find_in<V: Value + 'static>(self, fib: &Fib<'_, V>, index: usize) -> u32;
}

impl Lookup for Ipv4Addr {
    #[inline(always)]
    fn is_in(self, list: &KeyList) -> bool {
        let [a, b, c, d] = list.v4;
        let wanted = self.to_bits();
        wanted != 0 && (a == wanted || b == wanted || c == wanted || d == wanted)
    }

    #[inline(always)]
    fn find_in<V: Value + 'static>(self, fib: &Fib<'_, V>, index: usize) -> u32 {
        fib.lookup(index, self.to_bits())
    }
}

impl Lookup for IpAddr {
    fn is_in(self, list: &KeyList) -> bool {
        match self {
            IpAddr::V4(v4) => v4.is_in(list),
            IpAddr::V6(v6) => !v6.is_unspecified() && list.v6.contains(&v6.to_bits()),
        }
    }

    fn find_in<V: Value + 'static>(self, fib: &Fib<'_, V>, index: usize) -> u32 {
        match self {
            IpAddr::V4(v4) => v4.find_in(fib, index),
            IpAddr::V6(v6) => fib.lookup(index, v6.to_bits()),
        }
    }
}

/// The sync that an entry was named in last, of those that have not been swept
/// after; 0 is none.
pub(crate) type Stamp = u8;

/// A network.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct NetworkEntry {
    pub(crate) present: bool,
    pub(crate) owner: Owner,
    pub(crate) stamp: Stamp,
    pub(crate) id: NetworkId,
    pub(crate) vni: Vni,
    pub(crate) udp_port: u16,
    pub(crate) local: Key,
    pub(crate) vtep_mac: MacAddr,
    pub(crate) gateways: KeyList,
    pub(crate) gateway_mac: MacAddr,
    pub(crate) node_addresses: KeyList,
    pub(crate) prefixes: KeyList,
    pub(crate) proxy: Proxy,
    pub(crate) options: NetworkOptions,
    pub(crate) underlay: PortId,
    pub(crate) has_host: bool,
    pub(crate) host: PortId,
    /// Ports, peers and routes that are in this network.
    pub(crate) references: u32,
}

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable)]
#[repr(u8)]
pub(crate) enum PortRole {
    Absent = 0,
    Endpoint,
    Host,
    Underlay,
    Wire,
}

impl PortRole {
    /// Whether tunnels arrive and leave there.
    pub(crate) fn is_underlay(self) -> bool {
        matches!(self, PortRole::Underlay | PortRole::Wire)
    }
}

/// A port, with its endpoint when it has one.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct PortEntry {
    pub(crate) role: PortRole,
    pub(crate) owner: Owner,
    pub(crate) stamp: Stamp,
    pub(crate) mtu: u16,
    pub(crate) mac: MacAddr,
    pub(crate) offloads: Offloads,
    /// Of endpoints and host ports.
    pub(crate) network: NetworkId,
    pub(crate) addresses: KeyList,
    /// Further prefixes that an endpoint may send from; of a wire, the prefix on
    /// its link of each address.
    pub(crate) allowed: KeyList,
    /// Of a wire.
    pub(crate) gateways: KeyList,
    /// Addresses that are to be announced, one bit for each.
    pub(crate) announce: u8,
    /// Limits the ICMP errors about packets from this port.
    pub(crate) icmp: icmp::Limit,
    /// Networks (of an underlay port) and prefix routes (of an endpoint) that name this port.
    pub(crate) references: u32,
    pub(crate) stats: PortStats,
}

impl PortEntry {
    /// Whom a wire hands packets to this underlay address: the address itself when
    /// it is on the link, otherwise the gateway.
    pub(crate) fn next_hop(&self, to: IpAddr) -> Option<IpAddr> {
        match self.allowed.covers(to) {
            true => Some(to),
            false => self.gateways.first_like(to),
        }
    }

    /// As [`PortEntry::next_hop`], over IPv4.
    pub(crate) fn next_hop_v4(&self, to: Ipv4Addr) -> Option<Ipv4Addr> {
        match self.next_hop(to.into())? {
            IpAddr::V4(next_hop) => Some(next_hop),
            IpAddr::V6(_) => None,
        }
    }

    /// A wire's own address on the link that this neighbor is on.
    pub(crate) fn address_towards(&self, neighbor: IpAddr) -> Option<IpAddr> {
        let wanted = Key::host(neighbor);
        let mut own = self.addresses.iter().zip(self.allowed.iter());
        let own = own.find(|(_, prefix)| prefix.covers(wanted));
        own.map(|(address, _)| address.address())
    }

    /// Marks the addresses that were not there before, or all of them, for being
    /// announced, and keeps those that still are to be.
    pub(crate) fn announce_since(&mut self, old: &PortEntry, all: bool) {
        self.announce = 0;
        for (bit, key) in self.addresses.iter().enumerate() {
            let mut before = old.addresses.iter().enumerate();
            let before = before.find(|(_, other)| *other == key);
            let pending = before.is_none_or(|(bit, _)| old.announce & 1 << bit != 0);
            self.announce |= u8::from(all || pending) << bit;
        }
    }
}

/// A peer.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct PeerEntry {
    pub(crate) present: bool,
    pub(crate) owner: Owner,
    pub(crate) stamp: Stamp,
    pub(crate) network: NetworkId,
    pub(crate) underlay: Key,
    pub(crate) vtep_mac: MacAddr,
    pub(crate) node_addresses: KeyList,
    pub(crate) accepts: EncapSet,
    pub(crate) transit: bool,
    /// Largest outer packet that gets to it, as ICMP said, until `path_mtu_until`; 0 when nothing is known.
    pub(crate) path_mtu: u16,
    pub(crate) path_mtu_until: Instant,
    /// Routes to this peer.
    pub(crate) references: u32,
}

impl PeerEntry {
    /// Whether this is the peer's underlay address.
    #[inline(always)]
    pub(crate) fn is_at(&self, underlay: &IpAddr) -> bool {
        match underlay {
            IpAddr::V4(v4) => {
                self.underlay.family == Family::V4 && self.underlay.bits_v4() == v4.to_bits()
            }
            IpAddr::V6(_) => self.underlay == Key::host(*underlay),
        }
    }
}

/// A route.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct RouteEntry {
    pub(crate) next_hop: NextHop,
    pub(crate) owner: Owner,
    pub(crate) stamp: Stamp,
}
