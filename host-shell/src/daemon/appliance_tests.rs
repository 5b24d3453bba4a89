//! Tests of what an appliance is told.

use culvert_core::{PortId, Table};

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

#[test]
fn the_uplink_fits_the_appliances_frames() {
    assert_eq!(mtu_problem(1500, 1514), None);
    let problem = mtu_problem(1501, 1514).unwrap();
    assert!(problem.contains("at most 1500"), "{problem}");
    assert!(mtu_problem(0, 13).is_none() && mtu_problem(1, 13).is_some());
}

#[test]
fn nics_change_places_and_go_back_to_what_their_addresses_tell() {
    let port = |number| Role::Port(PortId(number));
    let [a, b, c] = [port(0).mac(), port(1).mac(), Role::Management.mac()];
    let plain = MacAddr::new([2, 0, 0, 0, 0, 9]);
    let nic = |(mac, role): (MacAddr, Role)| Nic {
        mac,
        role,
        rx_frames: 0,
        rx_unclaimed: 0,
        rx_too_long: 0,
        tx_frames: 0,
        tx_full: 0,
    };
    let changes = |file: &[(MacAddr, Role)], now: &[(MacAddr, Role)]| {
        let file: Vec<_> = file
            .iter()
            .map(|(mac, role)| (Mac::from(*mac), *role))
            .collect();
        let now: Vec<_> = now.iter().copied().map(nic).collect();
        role_changes(&file, &now)
    };
    let at_start = [
        (a, port(0)),
        (b, port(1)),
        (c, Role::Management),
        (plain, Role::Unused),
    ];
    // What is as it is to be is left alone.
    assert_eq!(changes(&[], &at_start), (vec![], vec![]));
    assert_eq!(changes(&[(a, port(0))], &at_start), (vec![], vec![]));
    // Two change places, and back without the file's word.
    let swapped = [(a, port(1)), (b, port(0))];
    assert_eq!(changes(&swapped, &at_start), (vec![a, b], swapped.to_vec()));
    let back = vec![(a, port(0)), (b, port(1))];
    assert_eq!(changes(&[], &swapped), (vec![a, b], back));
    // One takes the role of one that is to have none.
    let taken = [(plain, port(0)), (a, Role::Unused)];
    let expected = (vec![a], vec![(plain, port(0))]);
    assert_eq!(changes(&taken, &at_start), expected);
    // One whose address tells nothing is only made free; one that is not there is told,
    // so that the appliance says so.
    let given = [(plain, port(7))];
    assert_eq!(changes(&[], &given), (vec![plain], vec![]));
    assert_eq!(changes(&given, &[]), (vec![], given.to_vec()));
}
