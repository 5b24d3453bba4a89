//! Routes: the FIBs of all networks, by the tables' keys.

use core::net::Ipv4Addr;

use super::entry::{Lookup, RouteEntry, Stamp};
use crate::addr::{Family, Key};
use crate::channel::{Encap, NextHop};
use crate::fib::{Fib, Full, Prefix, Root, Value};
use crate::{NetworkId, PeerId, PortId};

/// Codes below that of the first port.
const BLACKHOLE: u16 = 1;
const HOST: u16 = 2;
/// Codes of ports begin here, those of peers at one kind of tunnel's number times this.
pub(super) const PORTS: u16 = 1 << 13;
const PEERS: u16 = 1 << 14;
/// Ports and peers that codes can name.
pub(super) const MAX_PORTS: usize = 1 << 13;
pub(super) const MAX_PEERS: usize = 1 << 14;

impl Value for RouteEntry {
    /// The tunnel in the upper two bits and the peer's id behind them; or, without a
    /// tunnel there, a port's id or one of the two others. Ids are within the tables'
    /// capacities, which these bits suffice for.
    fn code(&self) -> u16 {
        match self.next_hop {
            NextHop::Blackhole => BLACKHOLE,
            NextHop::Host => HOST,
            NextHop::Endpoint(port) => PORTS | (port.0 & (PORTS - 1)),
            NextHop::Peer { peer, encap } => {
                let tunnel = match encap {
                    Encap::Vxlan => 1,
                    Encap::Ipip => 2,
                    Encap::Direct => 3,
                };
                (tunnel * PEERS) | (peer.0 & (PEERS - 1))
            }
        }
    }
}

/// A route's code, which lookups answer; 0: there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Code(u32);

impl Code {
    /// The next hop that it stands for.
    #[inline(always)]
    pub(crate) fn next_hop(self) -> Option<NextHop> {
        if let Some((peer, encap)) = self.peer() {
            return Some(NextHop::Peer { peer, encap });
        }
        match self.endpoint() {
            Some(port) => Some(NextHop::Endpoint(port)),
            None if self.0 == u32::from(BLACKHOLE) => Some(NextHop::Blackhole),
            None if self.0 == u32::from(HOST) => Some(NextHop::Host),
            None => None,
        }
    }

    /// The peer that it stands for, if it does.
    #[inline(always)]
    pub(crate) fn peer(self) -> Option<(PeerId, Encap)> {
        let encap = match self.0 >> 14 {
            1 => Encap::Vxlan,
            2 => Encap::Ipip,
            3 => Encap::Direct,
            _ => return None,
        };
        Some((PeerId(self.low() & (PEERS - 1)), encap))
    }

    /// The id of the peer that it stands for, if it does.
    #[inline(always)]
    pub(crate) fn peer_id(self) -> Option<PeerId> {
        (self.0 >= u32::from(PEERS)).then_some(PeerId(self.low() & (PEERS - 1)))
    }

    /// The endpoint that it stands for, if it does.
    #[inline(always)]
    pub(crate) fn endpoint(self) -> Option<PortId> {
        (self.0 >> 13 == 1).then_some(PortId(self.low() & (PORTS - 1)))
    }

    #[inline(always)]
    fn low(self) -> u16 {
        let [.., high, low] = self.0.to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// A key as one family's prefix.
fn v4(key: Key) -> Prefix<u32> {
    Prefix {
        bits: key.bits_v4(),
        length: key.length,
    }
}

fn v6(key: Key) -> Prefix<u128> {
    Prefix {
        bits: key.bits,
        length: key.length,
    }
}

fn key_v4((prefix, route): (Prefix<u32>, RouteEntry)) -> (Key, RouteEntry) {
    (Key::v4(prefix.bits, prefix.length), route)
}

fn key_v6((prefix, route): (Prefix<u128>, RouteEntry)) -> (Key, RouteEntry) {
    let key = Key {
        family: Family::V6,
        bits: prefix.bits,
        length: prefix.length,
    };
    (key, route)
}

/// (network, prefix) → next hop and owner.
pub(crate) struct Routes<'a>(pub(crate) Fib<'a, RouteEntry>);

impl Routes<'_> {
    /// Routes that there can be, over all networks.
    pub(crate) fn capacity(&self) -> u32 {
        self.0.capacity()
    }

    /// Routes of all networks.
    pub(crate) fn len(&self) -> u32 {
        self.0.len()
    }

    /// The next hop of the longest prefix that holds the address.
    #[inline(always)]
    pub(crate) fn lookup<A: Lookup>(&self, network: NetworkId, address: A) -> Code {
        Code(address.find_in(&self.0, network.index()))
    }

    /// Where lookups of IPv4 addresses in a network start.
    #[inline(always)]
    pub(crate) fn start_v4(&self, network: NetworkId) -> Root<'_> {
        self.0.start_v4(network.index())
    }

    /// As [`Routes::lookup`] in the network that starts there.
    #[inline(always)]
    pub(crate) fn lookup_from(&self, root: Root<'_>, address: Ipv4Addr) -> Code {
        Code(self.0.lookup_from(root, address.to_bits()))
    }

    /// The route of exactly this prefix.
    pub(crate) fn get(&self, network: NetworkId, key: Key) -> Option<&RouteEntry> {
        match key.family {
            Family::V4 => self.0.get(network.index(), v4(key)),
            Family::V6 => self.0.get(network.index(), v6(key)),
        }
    }

    /// The stamp of exactly this prefix's route.
    pub(crate) fn stamp_mut(&mut self, network: NetworkId, key: Key) -> Option<&mut Stamp> {
        let route = match key.family {
            Family::V4 => self.0.get_mut(network.index(), v4(key)),
            Family::V6 => self.0.get_mut(network.index(), v6(key)),
        };
        route.map(|route| &mut route.stamp)
    }

    /// Adds or replaces a route and returns what was there.
    ///
    /// # Errors
    /// [`Full`] when the route is new and there is no room; nothing changes.
    pub(crate) fn insert(
        &mut self,
        network: NetworkId,
        key: Key,
        route: RouteEntry,
    ) -> Result<Option<RouteEntry>, Full> {
        match key.family {
            Family::V4 => self.0.insert(network.index(), v4(key), route),
            Family::V6 => self.0.insert(network.index(), v6(key), route),
        }
    }

    /// Removes a route and returns it.
    pub(crate) fn remove(&mut self, network: NetworkId, key: Key) -> Option<RouteEntry> {
        match key.family {
            Family::V4 => self.0.remove(network.index(), v4(key)),
            Family::V6 => self.0.remove(network.index(), v6(key)),
        }
    }

    /// The route of a network that follows `after` in this order: IPv4 before IPv6,
    /// then by address, a prefix before the longer ones that it holds.
    pub(crate) fn next(&self, network: NetworkId, after: Option<Key>) -> Option<(Key, RouteEntry)> {
        let network = network.index();
        let of_v6 = |after| self.0.next::<u128>(network, after).map(key_v6);
        match after {
            Some(key) if key.family == Family::V6 => of_v6(Some(v6(key))),
            after => {
                let of_v4 = self.0.next::<u32>(network, after.map(v4)).map(key_v4);
                of_v4.or_else(|| of_v6(None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Owner;

    #[test]
    fn codes_name_each_next_hop_and_fit_the_fib() {
        let peer = |encap| NextHop::Peer {
            peer: PeerId(PEERS - 1),
            encap,
        };
        let next_hops = [
            NextHop::Blackhole,
            NextHop::Host,
            NextHop::Endpoint(PortId(0)),
            NextHop::Endpoint(PortId(PORTS - 1)),
            peer(Encap::Vxlan),
            peer(Encap::Ipip),
            peer(Encap::Direct),
        ];
        for next_hop in next_hops {
            let owner = Owner::Cluster;
            let route = RouteEntry {
                next_hop,
                owner,
                stamp: 0,
            };
            let code = route.code();
            assert_ne!(code, 0);
            assert_eq!(Code(code.into()).next_hop(), Some(next_hop));
        }
        assert_eq!(Code(0).next_hop(), None);
    }
}
