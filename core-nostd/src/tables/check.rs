//! What can be said about an operation's values without looking at the tables.

use core::net::IpAddr;

use zerocopy::FromZeros;

use super::entry::{KeyList, PortEntry, PortRole};
use super::error::{Feature, Reason, TableError};
use crate::MacAddr;
use crate::addr::Key;
use crate::channel::{Network, Owner, Port, PortKind};

/// Smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;

/// This version has no tables for IPv6.
pub(super) fn ipv4_only(address: IpAddr) -> Result<(), TableError> {
    match address {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(_) => Err(TableError::Unsupported(Feature::Ipv6)),
    }
}

/// A host's own address: not unspecified, broadcast or multicast.
pub(super) fn unicast(address: IpAddr) -> Result<(), TableError> {
    ipv4_only(address)?;
    let broadcast = address == IpAddr::V4(core::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(TableError::Invalid(Reason::Address));
    }
    Ok(())
}

/// An address that one device can have.
pub(super) fn unicast_mac(mac: MacAddr) -> Result<(), TableError> {
    if mac.is_group() || mac == MacAddr::ZERO {
        return Err(TableError::Invalid(Reason::Mac));
    }
    Ok(())
}

/// What a network must have on its own.
pub(super) fn network(network: &Network) -> Result<(), TableError> {
    unicast(network.local)?;
    unicast(network.node_address)?;
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
        ..PortEntry::new_zeroed()
    };
    let overhead = match &port.kind {
        PortKind::Underlay => crate::pipeline::VXLAN_OVERHEAD_V4,
        PortKind::Host { .. } | PortKind::Endpoint(_) => {
            unicast_mac(port.mac)?;
            0
        }
    };
    if port.mtu < MIN_MTU + overhead {
        return Err(TableError::Invalid(Reason::Mtu));
    }
    match &port.kind {
        PortKind::Underlay => entry.role = PortRole::Underlay,
        PortKind::Host { network } => {
            entry.role = PortRole::Host;
            entry.network = *network;
        }
        PortKind::Endpoint(endpoint) => {
            endpoint.addresses.iter().try_for_each(|a| unicast(*a))?;
            let mut allowed = endpoint.allowed.iter();
            allowed.try_for_each(|p| ipv4_only(p.address()))?;
            if endpoint.addresses.is_empty() {
                return Err(TableError::Invalid(Reason::NoAddress));
            }
            entry.role = PortRole::Endpoint;
            entry.network = endpoint.network;
            entry.addresses = KeyList::new(endpoint.addresses.iter().map(|a| Key::host(*a)));
            entry.allowed = KeyList::new(endpoint.allowed.iter().map(|p| p.key()));
        }
    }
    Ok(entry)
}
