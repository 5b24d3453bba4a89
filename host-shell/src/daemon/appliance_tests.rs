//! Tests of what an appliance is told.

use culvert_core::Table;

use super::*;

#[test]
fn tables_are_cleared_for_what_is_in_the_way_and_nothing_else() {
    let (table, id, owner) = (Table::Peers, 7, Owner::Cluster);
    for curable in [
        TableError::OwnedBy { table, owner },
        TableError::Conflict { table, id },
        TableError::Invalid(Reason::Immutable),
    ] {
        assert!(is_of_another_configuration(&curable), "{curable}");
    }
    let capacity = 4;
    for incurable in [
        TableError::TableFull { table, capacity },
        TableError::IdOutOfRange {
            table,
            id,
            capacity,
        },
        TableError::NotFound { table, id },
        TableError::InUse { table, id },
        TableError::Invalid(Reason::Mtu),
        TableError::TooManyOperations { limit: 32 },
        TableError::SyncRunning { owner },
        TableError::SyncNotRunning,
        TableError::SyncReservation { table, reserved: 0 },
    ] {
        assert!(!is_of_another_configuration(&incurable), "{incurable}");
    }
}
