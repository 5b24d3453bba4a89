//! Routes.

use super::{Inverse, owned};
use crate::addr::Key;
use crate::channel::{NextHop, Operation, Owner, Route};
use crate::tables::Tables;
use crate::tables::entry::{PortRole, RouteEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::{IpPrefix, NetworkId};

impl Tables<'_> {
    pub(super) fn upsert_route(
        &mut self,
        owner: Owner,
        new: &Route,
    ) -> Result<Inverse, TableError> {
        self.check_next_hop(new)?;
        let key = new.prefix.key();
        let old = self.changeable_route(owner, new.network, key)?;
        let full = self.routes_full();
        let Some(network) = self.networks.get_mut(new.network.index()) else {
            return Ok(None);
        };
        let entry = RouteEntry {
            next_hop: new.next_hop,
            owner,
        };
        self.routes
            .insert(network.route_roots.of_mut(key), key, entry)
            .map_err(|_| full)?;
        self.count_next_hop(new.next_hop, 1);
        Ok(Some(match old {
            Some(old) => {
                self.count_next_hop(old.next_hop, -1);
                Operation::UpsertRoute(Route {
                    next_hop: old.next_hop,
                    ..*new
                })
            }
            None => {
                self.count_network(new.network, 1);
                Operation::RemoveRoute {
                    network: new.network,
                    prefix: new.prefix,
                }
            }
        }))
    }

    pub(super) fn remove_route(
        &mut self,
        owner: Owner,
        network: NetworkId,
        prefix: IpPrefix,
    ) -> Result<Inverse, TableError> {
        let key = prefix.key();
        if self.network(network).is_none() {
            return Ok(None);
        }
        let Some(old) = self.changeable_route(owner, network, key)? else {
            return Ok(None);
        };
        if let Some(entry) = self.networks.get_mut(network.index()) {
            self.routes.remove(entry.route_roots.of_mut(key), key);
        }
        self.count_next_hop(old.next_hop, -1);
        self.count_network(network, -1);
        Ok(Some(Operation::UpsertRoute(Route {
            network,
            prefix,
            next_hop: old.next_hop,
        })))
    }

    /// The route of exactly this key, if there is one and this owner may change it.
    pub(super) fn changeable_route(
        &self,
        owner: Owner,
        network: NetworkId,
        key: Key,
    ) -> Result<Option<RouteEntry>, TableError> {
        let roots = self.need_network(network)?.route_roots;
        let Some(route) = self.routes.get(roots.of(key), key) else {
            return Ok(None);
        };
        owned(true, route.owner, owner, Table::Routes)?;
        if let NextHop::Endpoint(port) = route.next_hop {
            let mut addresses = self.port(port).into_iter().flat_map(|p| p.addresses.iter());
            if addresses.any(|address| address == key) {
                return Err(TableError::Invalid(Reason::EndpointRoute));
            }
        }
        Ok(Some(*route))
    }

    pub(super) fn check_next_hop(&self, route: &Route) -> Result<(), TableError> {
        self.need_network(route.network)?;
        match route.next_hop {
            NextHop::Blackhole | NextHop::Host => Ok(()),
            NextHop::Endpoint(port) => match self.port(port) {
                Some(p) if p.role == PortRole::Endpoint && p.network == route.network => Ok(()),
                Some(_) => Err(TableError::Invalid(Reason::PortKind)),
                None => Err(TableError::NotFound {
                    table: Table::Ports,
                    id: port.0,
                }),
            },
            NextHop::Peer { peer, .. } => self
                .peer(peer)
                .filter(|p| p.network == route.network)
                .map(|_| ())
                .ok_or(TableError::NotFound {
                    table: Table::Peers,
                    id: peer.0,
                }),
        }
    }
}
