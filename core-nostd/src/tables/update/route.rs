//! Routes.

use super::{Inverse, Writer, owned};
use crate::addr::Key;
use crate::channel::{NextHop, Operation, Owner, Route};
use crate::tables::Tables;
use crate::tables::entry::{PortRole, RouteEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::{IpPrefix, NetworkId};

impl Tables<'_> {
    pub(super) fn upsert_route(
        &mut self,
        writer: Writer,
        new: &Route,
    ) -> Result<Inverse, TableError> {
        self.check_next_hop(new)?;
        let key = new.prefix.key();
        let old = self.changeable_route(writer.owner, new.network, key)?;
        if old.is_none() {
            self.admit(writer.owner, Table::Routes, 1)?;
        }
        let full = self.full(Table::Routes);
        let entry = RouteEntry {
            next_hop: new.next_hop,
            owner: writer.owner,
            stamp: writer.stamp,
        };
        // What stays as it is costs a look and not a change of the FIB.
        let same = old.is_some_and(|old| old.next_hop == new.next_hop);
        match self.routes.stamp_mut(new.network, key).filter(|_| same) {
            Some(stamp) => *stamp = writer.stamp,
            None => {
                self.routes
                    .insert(new.network, key, entry)
                    .map_err(|_| full)?;
            }
        }
        self.count_next_hop(new.next_hop, 1);
        let Some(old) = old else {
            self.book(writer.owner, Table::Routes, 1);
            self.count_network(new.network, 1);
            let inverse = Operation::RemoveRoute {
                network: new.network,
                prefix: new.prefix,
            };
            return Ok(Some((inverse, 0)));
        };
        self.count_next_hop(old.next_hop, -1);
        let inverse = Operation::UpsertRoute(Route {
            next_hop: old.next_hop,
            ..*new
        });
        Ok(Some((inverse, old.stamp)))
    }

    pub(in crate::tables) fn remove_route(
        &mut self,
        writer: Writer,
        network: NetworkId,
        prefix: IpPrefix,
    ) -> Result<Inverse, TableError> {
        let key = prefix.key();
        if self.network(network).is_none() {
            return Ok(None);
        }
        let Some(old) = self.changeable_route(writer.owner, network, key)? else {
            return Ok(None);
        };
        self.routes.remove(network, key);
        self.count_next_hop(old.next_hop, -1);
        self.count_network(network, -1);
        self.book(writer.owner, Table::Routes, -1);
        let inverse = Operation::UpsertRoute(Route {
            network,
            prefix,
            next_hop: old.next_hop,
        });
        Ok(Some((inverse, old.stamp)))
    }

    /// The route of exactly this key, if there is one and this owner may change it.
    pub(super) fn changeable_route(
        &self,
        owner: Owner,
        network: NetworkId,
        key: Key,
    ) -> Result<Option<RouteEntry>, TableError> {
        self.need_network(network)?;
        let Some(route) = self.routes.get(network, key) else {
            return Ok(None);
        };
        owned(true, route.owner, owner, Table::Routes)?;
        if self.is_host_route(key, route) {
            return Err(TableError::Invalid(Reason::EndpointRoute));
        }
        Ok(Some(*route))
    }

    /// Whether this is the host route of an endpoint's own address, which comes and
    /// goes with its port.
    pub(in crate::tables) fn is_host_route(&self, key: Key, route: &RouteEntry) -> bool {
        let NextHop::Endpoint(port) = route.next_hop else {
            return false;
        };
        let mut addresses = self.port(port).into_iter().flat_map(|p| p.addresses.iter());
        addresses.any(|address| address == key)
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
