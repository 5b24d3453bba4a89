//! A model of the tables that is too simple to be wrong: lists that are scanned,
//! copied before each transaction and put back when it is refused.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use super::{NETWORKS, PEERS, PORTS, ROUTES};

/// What the tables should hold. An endpoint's host routes are not among `routes`.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    pub(crate) networks: Vec<Owned<Network>>,
    pub(crate) ports: Vec<Owned<Port>>,
    pub(crate) peers: Vec<Owned<Peer>>,
    pub(crate) routes: Vec<Owned<Route>>,
}

/// Puts an entry in the place of the one that is the same, or behind all.
fn put<T: PartialEq>(list: &mut Vec<Owned<T>>, owner: Owner, entry: T, same: impl Fn(&T) -> bool) {
    match list.iter_mut().find(|old| same(&old.entry)) {
        Some(old) => *old = Owned { owner, entry },
        None => list.push(Owned { owner, entry }),
    }
}

fn all(conditions: &[bool]) -> Option<()> {
    conditions.iter().all(|holds| *holds).then_some(())
}

fn is_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast() && !v4.is_loopback()
        }
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback(),
    }
}

fn is_mac(mac: MacAddr) -> bool {
    mac != MacAddr::ZERO && mac.bytes()[0] & 1 == 0
}

fn endpoint(port: &Port) -> Option<&Endpoint> {
    match &port.kind {
        PortKind::Endpoint(endpoint) => Some(endpoint),
        PortKind::Host { .. } | PortKind::Underlay | PortKind::Wire(_) => None,
    }
}

fn network_of(port: &Port) -> Option<NetworkId> {
    match &port.kind {
        PortKind::Endpoint(endpoint) => Some(endpoint.network),
        PortKind::Host { network } => Some(*network),
        PortKind::Underlay | PortKind::Wire(_) => None,
    }
}

impl Model {
    /// Carries out a transaction; `None`, and no change, when it is to be refused.
    pub(crate) fn apply(&mut self, owner: Owner, operations: &[Operation]) -> Option<()> {
        let before = self.clone();
        let done = operations.iter().try_for_each(|o| self.apply_one(owner, o));
        if done.is_none() {
            *self = before;
        }
        done
    }

    pub(crate) fn apply_one(&mut self, owner: Owner, operation: &Operation) -> Option<()> {
        match operation.clone() {
            Operation::UpsertNetwork(new) => self.upsert_network(owner, new),
            Operation::RemoveNetwork(id) => self.remove_network(owner, id),
            Operation::UpsertPort(new) => self.upsert_port(owner, new),
            Operation::RemovePort(id) => self.remove_port(owner, id),
            Operation::UpsertPeer(new) => self.upsert_peer(owner, new),
            Operation::RemovePeer(id) => self.remove_peer(owner, id),
            Operation::UpsertRoute(new) => self.upsert_route(owner, new),
            Operation::RemoveRoute { network, prefix } => self.remove_route(owner, network, prefix),
            Operation::SetPathMtu { peer, .. } => {
                let mut peers = self.peers.iter();
                peers.find(|p| p.entry.id == peer).map(|_| ())
            }
        }
    }

    fn network(&self, id: NetworkId) -> Option<&Owned<Network>> {
        self.networks.iter().find(|n| n.entry.id == id)
    }

    fn port(&self, id: PortId) -> Option<&Owned<Port>> {
        self.ports.iter().find(|p| p.entry.id == id)
    }

    fn endpoints_in(&self, id: NetworkId) -> impl Iterator<Item = (&Port, &Endpoint)> {
        let ports = self.ports.iter().map(|p| &p.entry);
        ports
            .filter_map(|port| Some((port, endpoint(port)?)))
            .filter(move |(_, endpoint)| endpoint.network == id)
    }

    /// The routes as the core should list them.
    pub(crate) fn listed_routes(&self) -> Vec<Owned<Route>> {
        let mut routes = self.routes.clone();
        for port in &self.ports {
            let Some(endpoint) = endpoint(&port.entry) else {
                continue;
            };
            for address in &endpoint.addresses {
                let entry = Route {
                    network: endpoint.network,
                    prefix: IpPrefix::host(*address),
                    next_hop: NextHop::Endpoint(port.entry.id),
                };
                routes.push(Owned {
                    owner: port.owner,
                    entry,
                });
            }
        }
        routes.sort_by_key(|r| (r.entry.network, r.entry.prefix));
        // An endpoint may name an address twice.
        routes.dedup();
        routes
    }

    fn upsert_network(&mut self, owner: Owner, new: Network) -> Option<()> {
        let underlay = self.port(new.underlay)?;
        let taken = self.networks.iter().any(|other| {
            let other = &other.entry;
            other.id != new.id && (other.vni, other.udp_port) == (new.vni, new.udp_port)
        });
        let mut peers = self.peers.iter().map(|p| &p.entry);
        let same_version = |p: &Peer| p.underlay.is_ipv4() == new.local.is_ipv4();
        let mut endpoints = self.endpoints_in(new.id);
        all(&[
            new.id.0 < NETWORKS,
            self.network(new.id).is_none_or(|old| old.owner == owner),
            is_unicast(&new.local) && new.node_addresses.iter().all(is_unicast),
            new.gateways.iter().all(is_unicast) && !new.gateways.is_empty(),
            is_mac(new.vtep_mac) && is_mac(new.gateway_mac),
            new.udp_port != 0,
            underlay.entry.kind == PortKind::Underlay,
            !taken,
            peers.all(|p| p.network != new.id || p.underlay != new.local && same_version(p)),
            !endpoints.any(|(_, e)| e.addresses.iter().any(|a| new.gateways.contains(a))),
        ])?;
        drop(endpoints);
        let id = new.id;
        put(&mut self.networks, owner, new, |n| n.id == id);
        Some(())
    }

    fn remove_network(&mut self, owner: Owner, id: NetworkId) -> Option<()> {
        all(&[id.0 < NETWORKS])?;
        let Some(old) = self.network(id) else {
            return Some(());
        };
        all(&[
            old.owner == owner,
            self.ports.iter().all(|p| network_of(&p.entry) != Some(id)),
            self.peers.iter().all(|p| p.entry.network != id),
            self.routes.iter().all(|r| r.entry.network != id),
        ])?;
        self.networks.retain(|n| n.entry.id != id);
        Some(())
    }

    fn upsert_port(&mut self, owner: Owner, new: Port) -> Option<()> {
        let (id, network) = (new.id, network_of(&new));
        let same_kind = |old: &Port| {
            let kind = |port: &Port| std::mem::discriminant(&port.kind);
            kind(old) == kind(&new) && network_of(old) == network
        };
        all(&[
            id.0 < PORTS,
            self.port(id)
                .is_none_or(|old| old.owner == owner && same_kind(&old.entry)),
            new.kind == PortKind::Underlay || is_mac(new.mac),
            new.mtu
                >= match &new.kind {
                    PortKind::Underlay | PortKind::Wire(_) => 138,
                    PortKind::Endpoint(e) if e.addresses.iter().any(IpAddr::is_ipv6) => 1280,
                    _ => 68,
                },
        ])?;
        if let Some(network) = network {
            self.network(network)?;
        }
        if let PortKind::Host { network } = new.kind {
            let is_other =
                |p: &Owned<Port>| p.entry.id != id && p.entry.kind == PortKind::Host { network };
            all(&[!self.ports.iter().any(is_other)])?;
        }
        if let Some(endpoint) = endpoint(&new) {
            self.check_endpoint(id, endpoint)?;
        }
        put(&mut self.ports, owner, new, |p| p.id == id);
        all(&[self.listed_routes().len() <= ROUTES])
    }

    fn check_endpoint(&self, id: PortId, new: &Endpoint) -> Option<()> {
        let network = &self.network(new.network)?.entry;
        all(&[!new.addresses.is_empty()])?;
        for address in &new.addresses {
            let is_here = |r: &Owned<Route>| {
                r.entry.network == new.network && r.entry.prefix == IpPrefix::host(*address)
            };
            let mut others = self
                .endpoints_in(new.network)
                .filter(|(port, _)| port.id != id);
            all(&[
                is_unicast(address),
                !network.gateways.contains(address),
                !self.routes.iter().any(is_here),
                !others.any(|(_, other)| other.addresses.contains(address)),
            ])?;
        }
        Some(())
    }

    fn remove_port(&mut self, owner: Owner, id: PortId) -> Option<()> {
        all(&[id.0 < PORTS])?;
        let Some(old) = self.port(id) else {
            return Some(());
        };
        all(&[
            old.owner == owner,
            self.networks.iter().all(|n| n.entry.underlay != id),
            self.routes
                .iter()
                .all(|r| r.entry.next_hop != NextHop::Endpoint(id)),
        ])?;
        self.ports.retain(|p| p.entry.id != id);
        Some(())
    }

    fn upsert_peer(&mut self, owner: Owner, new: Peer) -> Option<()> {
        let network = &self.network(new.network)?.entry;
        let old = self.peers.iter().find(|p| p.entry.id == new.id);
        let place = (new.network, new.underlay);
        let is_other =
            |p: &Owned<Peer>| p.entry.id != new.id && (p.entry.network, p.entry.underlay) == place;
        let ipip = |p: &Peer| p.accepts.contains(Encap::Ipip);
        let takes_ipip = |p: &Owned<Peer>| {
            let p = &p.entry;
            let elsewhere = p.network != new.network && p.id != new.id;
            elsewhere && p.underlay == new.underlay && ipip(p) && ipip(&new)
        };
        all(&[
            new.id.0 < PEERS,
            old.is_none_or(|old| old.owner == owner),
            old.is_none_or(|old| (old.entry.network, old.entry.underlay) == place),
            is_mac(new.vtep_mac) && is_unicast(&new.underlay),
            new.node_addresses.iter().all(is_unicast),
            !self.peers.iter().any(is_other),
            network.local != new.underlay,
            network.local.is_ipv4() == new.underlay.is_ipv4(),
            !self.peers.iter().any(takes_ipip),
        ])?;
        let id = new.id;
        put(&mut self.peers, owner, new, |p| p.id == id);
        Some(())
    }

    pub(crate) fn routes_to(&self, id: PeerId) -> usize {
        let leads = |r: &&Owned<Route>| matches!(r.entry.next_hop, NextHop::Peer { peer, .. } if peer == id);
        self.routes.iter().filter(leads).count()
    }

    fn remove_peer(&mut self, owner: Owner, id: PeerId) -> Option<()> {
        all(&[id.0 < PEERS])?;
        let Some(old) = self.peers.iter().find(|p| p.entry.id == id) else {
            return Some(());
        };
        all(&[old.owner == owner, self.routes_to(id) == 0])?;
        self.peers.retain(|p| p.entry.id != id);
        Some(())
    }

    /// The owner of an explicit route; `None` when it is an endpoint's.
    fn route_owner(&self, network: NetworkId, prefix: IpPrefix) -> Option<Option<Owner>> {
        let mut endpoints = self.endpoints_in(network);
        let is_host =
            |(_, e): (&Port, &Endpoint)| e.addresses.iter().any(|a| IpPrefix::host(*a) == prefix);
        all(&[!endpoints.any(is_host)])?;
        let mut routes = self.routes.iter();
        let old = routes.find(|r| (r.entry.network, r.entry.prefix) == (network, prefix));
        Some(old.map(|old| old.owner))
    }

    fn upsert_route(&mut self, owner: Owner, new: Route) -> Option<()> {
        self.network(new.network)?;
        let leads = match new.next_hop {
            NextHop::Blackhole | NextHop::Host => true,
            NextHop::Endpoint(id) => self
                .endpoints_in(new.network)
                .any(|(port, _)| port.id == id),
            NextHop::Peer { peer, .. } => {
                let mut peers = self.peers.iter().map(|p| &p.entry);
                peers.any(|p| p.id == peer && p.network == new.network)
            }
        };
        let old = self.route_owner(new.network, new.prefix)?;
        all(&[leads, old.is_none_or(|old| old == owner)])?;
        let key = (new.network, new.prefix);
        put(&mut self.routes, owner, new, |r| {
            (r.network, r.prefix) == key
        });
        all(&[self.listed_routes().len() <= ROUTES])
    }

    fn remove_route(&mut self, owner: Owner, network: NetworkId, prefix: IpPrefix) -> Option<()> {
        let old = self.route_owner(network, prefix)?;
        all(&[old.is_none_or(|old| old == owner)])?;
        self.routes
            .retain(|r| (r.entry.network, r.entry.prefix) != (network, prefix));
        Some(())
    }

    /// What removes everything, in an order in which nothing is in use.
    pub(crate) fn removals(&self) -> Vec<(Owner, Operation)> {
        let mut all = Vec::new();
        for Owned { owner, entry } in &self.routes {
            let (network, prefix) = (entry.network, entry.prefix);
            all.push((*owner, Operation::RemoveRoute { network, prefix }));
        }
        let ports = |underlay: bool| {
            let of_kind = move |p: &&Owned<Port>| (p.entry.kind == PortKind::Underlay) == underlay;
            let ports = self.ports.iter().filter(of_kind);
            ports.map(|p| (p.owner, Operation::RemovePort(p.entry.id)))
        };
        all.extend(ports(false));
        all.extend(
            self.peers
                .iter()
                .map(|p| (p.owner, Operation::RemovePeer(p.entry.id))),
        );
        all.extend(
            self.networks
                .iter()
                .map(|n| (n.owner, Operation::RemoveNetwork(n.entry.id))),
        );
        all.extend(ports(true));
        all
    }
}
