//! The tables as messages: pages for the control channel.

use core::net::IpAddr;

use super::Tables;
use super::entry::{KeyList, NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::addr::Key;
use crate::channel::{
    Endpoint, MAX_ADDRESSES, Network, Owned, PAGE, Peer, Port, PortKind, PortStats, Route,
    SMALL_PAGE, Wire, WireAddress,
};
use crate::{IpPrefix, NetworkId, PeerId, PortId};

/// As many of the items as fit; `collect` would panic over one more.
pub(crate) fn first<T, const N: usize>(items: impl Iterator<Item = T>) -> heapless::Vec<T, N> {
    let mut list = heapless::Vec::new();
    for item in items {
        if list.push(item).is_err() {
            break;
        }
    }
    list
}

impl KeyList {
    #[inline(never)]
    fn addresses(&self) -> heapless::Vec<IpAddr, MAX_ADDRESSES> {
        first(self.iter().map(|key| key.address()))
    }

    #[inline(never)]
    fn prefixes(&self) -> heapless::Vec<IpPrefix, MAX_ADDRESSES> {
        first(self.iter().map(|key| key.prefix()))
    }
}

impl NetworkEntry {
    #[inline(never)]
    pub(crate) fn message(&self, id: NetworkId) -> Network {
        Network {
            id,
            vni: self.vni,
            udp_port: self.udp_port,
            local: self.local.address(),
            vtep_mac: self.vtep_mac,
            gateways: self.gateways.addresses(),
            gateway_mac: self.gateway_mac,
            node_addresses: self.node_addresses.addresses(),
            prefixes: self.prefixes.prefixes(),
            proxy: self.proxy,
            options: self.options,
            underlay: self.underlay,
        }
    }
}

impl PortEntry {
    #[inline(never)]
    pub(crate) fn message(&self, id: PortId) -> Port {
        let kind = match self.role {
            PortRole::Endpoint => PortKind::Endpoint(Endpoint {
                network: self.network,
                addresses: self.addresses.addresses(),
                allowed: self.allowed.prefixes(),
            }),
            PortRole::Host => PortKind::Host {
                network: self.network,
            },
            PortRole::Wire => PortKind::Wire(self.wire()),
            PortRole::Underlay | PortRole::Absent => PortKind::Underlay,
        };
        Port {
            id,
            mtu: self.mtu,
            mac: self.mac,
            offloads: self.offloads,
            kind,
        }
    }

    fn wire(&self) -> Wire {
        let on_link = self.addresses.iter().zip(self.allowed.iter());
        Wire {
            addresses: first(on_link.map(|(own, prefix)| WireAddress {
                address: own.address(),
                prefix_length: prefix.length,
            })),
            gateways: first(self.gateways.iter().map(Key::address)),
        }
    }
}

impl PeerEntry {
    #[inline(never)]
    pub(crate) fn message(&self, id: PeerId) -> Peer {
        Peer {
            id,
            network: self.network,
            underlay: self.underlay.address(),
            vtep_mac: self.vtep_mac,
            node_addresses: self.node_addresses.addresses(),
            accepts: self.accepts,
            transit: self.transit,
        }
    }
}

/// The entries behind an id, with their own ids.
fn after<T>(table: &[T], id: Option<u16>) -> impl Iterator<Item = (u16, &T)> {
    let skip = id.map_or(0, |id| usize::from(id) + 1);
    (0..=u16::MAX).zip(table).skip(skip)
}

impl Tables<'_> {
    /// The networks that follow an id, at most a page.
    pub(crate) fn networks_after(
        &self,
        id: Option<NetworkId>,
    ) -> impl Iterator<Item = Owned<Network>> {
        after(self.networks, id.map(|id| id.0))
            .filter(|(_, entry)| entry.present)
            .take(SMALL_PAGE)
            .map(|(id, entry)| Owned {
                owner: entry.owner,
                entry: entry.message(NetworkId(id)),
            })
    }

    /// The ports that follow an id, at most a page.
    pub(crate) fn ports_after(
        &self,
        id: Option<PortId>,
    ) -> impl Iterator<Item = (Owned<Port>, PortStats)> {
        after(self.ports, id.map(|id| id.0))
            .filter(|(_, entry)| entry.role != PortRole::Absent)
            .take(SMALL_PAGE)
            .map(|(id, entry)| {
                let port = Owned {
                    owner: entry.owner,
                    entry: entry.message(PortId(id)),
                };
                (port, entry.stats)
            })
    }

    /// The peers that follow an id, at most a page, with the number of routes to each.
    pub(crate) fn peers_after(
        &self,
        id: Option<PeerId>,
    ) -> impl Iterator<Item = (Owned<Peer>, u32)> {
        after(self.peers, id.map(|id| id.0))
            .filter(|(_, entry)| entry.present)
            .take(PAGE)
            .map(|(id, entry)| {
                let peer = Owned {
                    owner: entry.owner,
                    entry: entry.message(PeerId(id)),
                };
                (peer, entry.references)
            })
    }

    /// The route that follows a key.
    pub(crate) fn route_after(&self, key: Option<(NetworkId, IpPrefix)>) -> Option<Owned<Route>> {
        let (first, mut from) = match key {
            None => (0, None),
            Some((network, prefix)) => (network.index(), Some(prefix.key())),
        };
        let networks = (0..=u16::MAX).zip(self.networks.iter()).skip(first);
        for (id, _) in networks.filter(|(_, network)| network.present) {
            let from = if usize::from(id) == first {
                from.take()
            } else {
                None
            };
            if let Some((key, route)) = self.routes.next(NetworkId(id), from) {
                return Some(Owned {
                    owner: route.owner,
                    entry: Route {
                        network: NetworkId(id),
                        prefix: key.prefix(),
                        next_hop: route.next_hop,
                    },
                });
            }
        }
        None
    }
}
