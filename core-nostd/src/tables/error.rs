//! Why a table update was refused.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::channel::Owner;

/// The tables by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Table {
    /// Networks (overlays).
    Networks,
    /// Ports: endpoints, the host, the underlay.
    Ports,
    /// Peers: the other nodes.
    Peers,
    /// Routes, over all networks; an endpoint's addresses count as routes.
    Routes,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Networks => "networks",
            Table::Ports => "ports",
            Table::Peers => "peers",
            Table::Routes => "routes",
        })
    }
}

/// Why an operation was refused. The tables are as they were before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TableError {
    /// The table has no room.
    TableFull {
        /// Which table.
        table: Table,
        /// Entries that it can hold.
        capacity: u32,
    },
    /// The id is not below the table's capacity.
    IdOutOfRange {
        /// Which table.
        table: Table,
        /// The id.
        id: u16,
        /// Entries that the table can hold.
        capacity: u32,
    },
    /// The operation refers to an entry that does not exist.
    NotFound {
        /// Which table the entry was looked for in.
        table: Table,
        /// Its id.
        id: u16,
    },
    /// The entry belongs to another owner.
    OwnedBy {
        /// Which table.
        table: Table,
        /// Who owns the entry.
        owner: Owner,
    },
    /// Other entries refer to the entry that was to be removed or changed.
    InUse {
        /// Which table.
        table: Table,
        /// Its id.
        id: u16,
    },
    /// Something that must be unique belongs to another entry already: a VNI on
    /// a UDP port, a peer's or this node's underlay address, an endpoint's or
    /// the gateway's address, a network's host port.
    Conflict {
        /// Which table the other entry is in.
        table: Table,
        /// The other entry's id; of a route, its network's.
        id: u16,
    },
    /// A value that can never be right.
    Invalid(Reason),
    /// More operations than one transaction may have.
    TooManyOperations {
        /// How many there may be.
        limit: u32,
    },
    /// A sync of the other owner is running.
    SyncRunning {
        /// Whose.
        owner: Owner,
    },
    /// The sync that was to end is not running.
    SyncNotRunning,
    /// The owner's running sync has not reserved so much room.
    SyncReservation {
        /// Which table.
        table: Table,
        /// Entries that it still has room for.
        reserved: u32,
    },
}

/// Values that can never be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reason {
    /// A MAC address with the group bit, or zero.
    Mac,
    /// An MTU below 68 (IPv4, RFC 791), of an endpoint with IPv6 addresses below
    /// 1280 (RFC 8200), or at the underlay without room for a tunnel.
    Mtu,
    /// An unspecified, broadcast or multicast address where a host's is needed.
    Address,
    /// An endpoint without an address.
    NoAddress,
    /// A network without a gateway address.
    NoGateway,
    /// UDP port 0.
    UdpPort,
    /// The port is of another kind than the operation needs.
    PortKind,
    /// An existing entry's network, kind or underlay address cannot change; remove it first.
    Immutable,
    /// A host route of an endpoint is changed through its port only.
    EndpointRoute,
    /// Addresses of both IP versions where they must be of one: a node's and its
    /// peers' underlay addresses.
    IpVersion,
    /// A prefix length that is too large for the address.
    PrefixLength,
    /// A wire's gateway outside of the prefixes on its link.
    GatewayOffLink,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::TableFull { table, capacity } => {
                write!(f, "the table of {table} is full ({capacity} entries)")
            }
            TableError::IdOutOfRange {
                table,
                id,
                capacity,
            } => write!(
                f,
                "{table}: id {id} is not below the capacity of {capacity}"
            ),
            TableError::NotFound { table, id } => write!(f, "{table}: there is no entry {id}"),
            TableError::OwnedBy { table, owner } => {
                write!(f, "{table}: the entry is owned by {owner}")
            }
            TableError::InUse { table, id } => {
                write!(f, "{table}: other entries still refer to entry {id}")
            }
            TableError::Conflict {
                table: Table::Routes,
                id,
            } => write!(
                f,
                "routes: network {id} has a route for exactly this address already"
            ),
            TableError::Conflict { table, id } => {
                write!(f, "{table}: entry {id} has this already")
            }
            TableError::TooManyOperations { limit } => {
                write!(f, "more than {limit} operations in one transaction")
            }
            TableError::SyncRunning { owner } => {
                write!(
                    f,
                    "a sync of the entries of {owner} is running; wait for its end"
                )
            }
            TableError::SyncNotRunning => {
                f.write_str("this sync was broken or never begun; begin it again")
            }
            TableError::SyncReservation { table, reserved } => write!(
                f,
                "{table}: the sync has reserved room for {reserved} more entries only; begin one with more additions"
            ),
            TableError::Invalid(reason) => f.write_str(match reason {
                Reason::Mac => "the MAC address must be a unicast address",
                Reason::Mtu => "the MTU is too small",
                Reason::Address => "the address must be a unicast address",
                Reason::NoAddress => "an endpoint needs at least one address",
                Reason::NoGateway => "a network needs at least one gateway address",
                Reason::UdpPort => "the UDP port must not be 0",
                Reason::PortKind => "the port is of another kind than the operation needs",
                Reason::Immutable => {
                    "this field of an existing entry cannot change; remove it first"
                }
                Reason::EndpointRoute => {
                    "an endpoint's host route is changed through its port only"
                }
                Reason::IpVersion => {
                    "the underlay addresses of a network must be all IPv4 or all IPv6"
                }
                Reason::PrefixLength => "the prefix length is too large for the address",
                Reason::GatewayOffLink => {
                    "the gateway is in none of the prefixes on the port's link"
                }
            }),
        }
    }
}

impl core::error::Error for TableError {}
