//! Networks.

use zerocopy::FromZeros;

use super::{Inverse, Writer, owned, slot, slot_mut, unique, unused};
use crate::NetworkId;
use crate::addr::Key;
use crate::channel::{Network, NextHop, Operation};
use crate::tables::entry::{KeyList, NetworkEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::tables::{Tables, check};

impl Tables<'_> {
    pub(super) fn upsert_network(
        &mut self,
        writer: Writer,
        new: &Network,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.networks, Table::Networks, new.id.0)?;
        owned(old.present, old.owner, writer.owner, Table::Networks)?;
        if old.present && old.message(new.id) == *new {
            slot_mut(self.networks, Table::Networks, new.id.0)?.stamp = writer.stamp;
            return Ok(Some((Operation::UpsertNetwork(new.clone()), old.stamp)));
        }
        check::network(new)?;
        let underlay = self.port(new.underlay).ok_or(TableError::NotFound {
            table: Table::Ports,
            id: new.underlay.0,
        })?;
        if !underlay.role.is_underlay() {
            return Err(TableError::Invalid(Reason::PortKind));
        }
        if let Some(taken) = self.network_by_vni(new.udp_port, new.vni) {
            unique(taken.id.0, new.id.0, Table::Networks)?;
        }
        self.check_own_addresses(&old, new)?;
        if old.present {
            self.count_port(old.underlay, -1);
        } else {
            self.admit(writer.owner, Table::Networks, 1)?;
            self.book(writer.owner, Table::Networks, 1);
        }
        self.count_port(new.underlay, 1);
        let entry = slot_mut(self.networks, Table::Networks, new.id.0)?;
        *entry = NetworkEntry {
            present: true,
            owner: writer.owner,
            stamp: writer.stamp,
            id: new.id,
            vni: new.vni,
            udp_port: new.udp_port,
            local: Key::host(new.local),
            vtep_mac: new.vtep_mac,
            gateways: KeyList::of_addresses(&new.gateways),
            gateway_mac: new.gateway_mac,
            node_addresses: KeyList::of_addresses(&new.node_addresses),
            prefixes: KeyList::of_prefixes(&new.prefixes),
            proxy: new.proxy,
            options: new.options,
            underlay: new.underlay,
            ..old
        };
        self.survey_tunnel_ports();
        let inverse = match old.present {
            true => Operation::UpsertNetwork(old.message(new.id)),
            false => Operation::RemoveNetwork(new.id),
        };
        Ok(Some((inverse, old.stamp)))
    }

    /// Checks that what is the gateway's own is nobody else's: no peer is at this
    /// node's underlay address, no endpoint at a gateway address. Peers keep the IP
    /// version of the underlay.
    pub(super) fn check_own_addresses(
        &self,
        old: &NetworkEntry,
        new: &Network,
    ) -> Result<(), TableError> {
        // A network that is not there yet has neither peers nor endpoints.
        if !old.present {
            return Ok(());
        }
        if let Some((taken, _)) = self.peer_by_underlay(old, new.local) {
            return Err(TableError::Conflict {
                table: Table::Peers,
                id: taken.0,
            });
        }
        let other_version = new.local.is_ipv6() != old.local.address().is_ipv6();
        let mut peers = self.peers.iter().filter(|peer| peer.present);
        if other_version && peers.any(|peer| peer.network == new.id) {
            return Err(TableError::Invalid(Reason::IpVersion));
        }
        for address in &new.gateways {
            let key = Key::host(*address);
            let next_hop = self.routes.get(new.id, key);
            let Some(NextHop::Endpoint(id)) = next_hop.map(|route| route.next_hop) else {
                continue;
            };
            if self
                .port(id)
                .is_some_and(|port| port.addresses.has(*address))
            {
                return Err(TableError::Conflict {
                    table: Table::Ports,
                    id: id.0,
                });
            }
        }
        Ok(())
    }

    pub(in crate::tables) fn remove_network(
        &mut self,
        writer: Writer,
        id: NetworkId,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.networks, Table::Networks, id.0)?;
        if !old.present {
            return Ok(None);
        }
        owned(true, old.owner, writer.owner, Table::Networks)?;
        unused(old.references, Table::Networks, id.0)?;
        self.count_port(old.underlay, -1);
        self.book(writer.owner, Table::Networks, -1);
        *slot_mut(self.networks, Table::Networks, id.0)? = NetworkEntry::new_zeroed();
        self.survey_tunnel_ports();
        Ok(Some((Operation::UpsertNetwork(old.message(id)), old.stamp)))
    }
}
