//! The drop reasons that only raw Ethernet ports have: `wire/reasons.rs` reaches
//! each of them, `fates` all others.

use culvert_core::DropReason::{self, *};

pub const ONLY_ON_RAW_PORTS: &[DropReason] = &[
    WireMac,
    WireGroup,
    WireDestination,
    OuterMalformed,
    OuterFragment,
    OuterChecksum,
    OuterChecksumZero,
    UnderlayNoRoute,
    NeighborTableFull,
    NeighborPending,
    NeighborFailed,
    QueueFull,
    QueueTooLong,
    AddressConflict,
    NeighborOffLink,
];
