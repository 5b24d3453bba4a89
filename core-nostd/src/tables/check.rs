//! What can be said about an operation's values without looking at the tables.

use core::net::IpAddr;

use zerocopy::FromZeros;

use super::entry::{KeyList, PortEntry, PortRole};
use super::error::{Reason, TableError};
use crate::addr::Key;
use crate::channel::{Endpoint, Network, Owner, Port, PortKind, Wire};
use crate::wire::{ip, ipv6};
use crate::{IpPrefix, MacAddr, pipeline};

/// Smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;

/// A host's own address: not unspecified, loopback, broadcast or multicast.
pub(super) fn unicast(address: IpAddr) -> Result<(), TableError> {
    match ip::is_host(address) {
        true => Ok(()),
        false => Err(TableError::Invalid(Reason::Address)),
    }
}

/// An address that one device can have.
pub(super) fn unicast_mac(mac: MacAddr) -> Result<(), TableError> {
    match mac.is_device() {
        true => Ok(()),
        false => Err(TableError::Invalid(Reason::Mac)),
    }
}

/// What a network must have on its own.
pub(super) fn network(network: &Network) -> Result<(), TableError> {
    unicast(network.local)?;
    network
        .node_addresses
        .iter()
        .try_for_each(|a| unicast(*a))?;
    network.gateways.iter().try_for_each(|a| unicast(*a))?;
    unicast_mac(network.vtep_mac)?;
    unicast_mac(network.gateway_mac)?;
    if network.gateways.is_empty() {
        return Err(TableError::Invalid(Reason::NoGateway));
    }
    if network.udp_port == 0 {
        return Err(TableError::Invalid(Reason::UdpPort));
    }
    Ok(())
}

/// The entry of a port as the message has it, checked as far as that is possible alone.
pub(super) fn port_entry(port: &Port, owner: Owner) -> Result<PortEntry, TableError> {
    let mut entry = PortEntry {
        owner,
        mtu: port.mtu,
        mac: port.mac,
        offloads: port.offloads,
        ..PortEntry::new_zeroed()
    };
    match &port.kind {
        PortKind::Underlay => entry.role = PortRole::Underlay,
        PortKind::Wire(wire) => {
            entry.role = PortRole::Wire;
            set_wire(&mut entry, wire)?;
        }
        PortKind::Host { network } => {
            entry.role = PortRole::Host;
            entry.network = *network;
        }
        PortKind::Endpoint(endpoint) => {
            entry.role = PortRole::Endpoint;
            set_endpoint(&mut entry, endpoint)?;
        }
    }
    if entry.role != PortRole::Underlay {
        unicast_mac(port.mac)?;
    }
    if port.mtu < smallest_mtu(&entry) {
        return Err(TableError::Invalid(Reason::Mtu));
    }
    Ok(entry)
}

/// The smallest MTU that a port may have.
fn smallest_mtu(entry: &PortEntry) -> u16 {
    let has_v6 = entry.addresses.iter().any(|key| key.address().is_ipv6());
    match entry.role {
        PortRole::Endpoint if has_v6 => ipv6::MIN_MTU,
        PortRole::Underlay | PortRole::Wire => MIN_MTU + pipeline::LARGEST_OVERHEAD,
        _ => MIN_MTU,
    }
}

fn set_endpoint(entry: &mut PortEntry, endpoint: &Endpoint) -> Result<(), TableError> {
    endpoint.addresses.iter().try_for_each(|a| unicast(*a))?;
    if endpoint.addresses.is_empty() {
        return Err(TableError::Invalid(Reason::NoAddress));
    }
    entry.network = endpoint.network;
    entry.addresses = KeyList::of_addresses(&endpoint.addresses);
    entry.allowed = KeyList::of_prefixes(&endpoint.allowed);
    Ok(())
}

fn set_wire(entry: &mut PortEntry, wire: &Wire) -> Result<(), TableError> {
    if wire.addresses.is_empty() {
        return Err(TableError::Invalid(Reason::NoAddress));
    }
    for own in &wire.addresses {
        unicast(own.address)?;
        if own.prefix_length > IpPrefix::host(own.address).length() {
            return Err(TableError::Invalid(Reason::PrefixLength));
        }
    }
    let own = wire.addresses.iter();
    entry.addresses = KeyList::new(own.clone().map(|own| Key::host(own.address)));
    entry.allowed = KeyList::new(own.map(|own| Key::holding(own.address, own.prefix_length)));
    for gateway in &wire.gateways {
        unicast(*gateway)?;
        if !entry.allowed.covers(*gateway) || entry.addresses.has(*gateway) {
            return Err(TableError::Invalid(Reason::GatewayOffLink));
        }
    }
    entry.gateways = KeyList::of_addresses(&wire.gateways);
    Ok(())
}
