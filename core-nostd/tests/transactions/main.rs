//! Transactions of both owners, valid and not, in tables that are soon full:
//! what can be read back is what a simple model has.

mod any;
#[path = "../common/mod.rs"]
mod common;
mod dump;
mod model;

use any::{groundwork, operation};
use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use dump::{Dump, dump, hello};
use model::Model;
use proptest::prelude::*;

const NETWORKS: u16 = 2;
const PORTS: u16 = 4;
const PEERS: u16 = 4;
const ROUTES: usize = 6;
type Small = Storage<2, 4, 4, 6>;

/// Compares what the core tells with the model, numbers of entries included.
fn check(gateway: &mut Gateway<'_>, model: &Model) -> Dump {
    let dump = dump::check(gateway, model);
    let used = hello(gateway).used;
    let used = [used.networks, used.ports, used.peers, used.routes];
    let lens = [
        dump.networks.len(),
        dump.ports.len(),
        dump.peers.len(),
        dump.routes.len(),
    ];
    assert_eq!(used.map(|n| usize::try_from(n).unwrap()), lens);
    dump
}

fn history() -> impl Strategy<Value = Vec<(Owner, Vec<Operation>)>> {
    let owner = prop_oneof![1 => Just(Owner::Attachment), 3 => Just(Owner::Cluster)];
    let single = prop::collection::vec(operation(), 1);
    let several = prop::collection::vec(operation(), 2..10);
    prop::collection::vec((owner, prop_oneof![2 => single, 1 => several]), 0..40)
}

fn follow(gateway: &mut Gateway<'_>, history: &[(Owner, Vec<Operation>)]) -> Model {
    hello(gateway);
    let mut model = Model::default();
    assert_eq!(model.apply(Owner::Cluster, &groundwork()), Some(()));
    gateway.apply(Owner::Cluster, &groundwork()).unwrap();
    for (owner, operations) in history {
        // Counters and port statistics that a refusal must leave alone.
        for port in 0..=PORTS {
            run(
                gateway,
                PortId(port),
                udp(MAC_A, [10, 0, 0, 1], [10, 0, 0, 2], b"x"),
            );
        }
        let before = dump(gateway);
        let expected = model.apply(*owner, operations);
        let result = gateway.apply(*owner, operations);
        assert_eq!(
            result.is_ok(),
            expected.is_some(),
            "{owner} {operations:?}: {result:?}"
        );
        let after = check(gateway, &model);
        assert_eq!(before.counters, after.counters);
        if result.is_err() {
            assert_eq!(before, after, "a refused transaction changed something");
        }
        // Once more: it may be refused, but changes nothing.
        let _ = gateway.apply(*owner, operations);
        assert_eq!(dump(gateway), after, "the second time changed something");
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_follow_the_model(history in history()) {
        let mut storage = Box::new(Small::new());
        let mut gateway = storage.gateway();
        let model = follow(&mut gateway, &history);
        // No reference has leaked: everything can be removed.
        for (owner, operation) in model.removals() {
            let result = gateway.apply(owner, std::slice::from_ref(&operation));
            prop_assert_eq!(result, Ok(()), "{:?}", operation);
        }
        check(&mut gateway, &Model::default());
    }
}

/// Room for one route is left; the endpoint names its address twice.
fn nearly_full(gateway: &mut Gateway<'_>) -> Port {
    let mut twice = pod(PortId(1), MAC_A, "10.0.0.1");
    if let PortKind::Endpoint(endpoint) = &mut twice.kind {
        endpoint.addresses = list(&[ip("10.0.0.1"), ip("10.0.0.1")]);
    }
    hello(gateway);
    let mut operations = groundwork();
    operations.push(Operation::UpsertPort(twice.clone()));
    operations.extend((1..5).map(|n| route(&format!("10.{n}.0.0/16"), NextHop::Blackhole)));
    gateway.apply(Owner::Cluster, &operations).unwrap();
    twice
}

#[test]
fn an_address_named_twice_takes_one_place_when_it_is_put_back() {
    let mut storage = Box::new(Small::new());
    let mut gateway = storage.gateway();
    nearly_full(&mut gateway);
    let one_more = route("10.9.0.0/16", NextHop::Blackhole);
    gateway.apply(Owner::Cluster, &[one_more]).unwrap();
    let before = dump(&mut gateway);
    assert_eq!(before.routes.len(), 6);
    let refused = [
        Operation::RemovePort(PortId(1)),
        Operation::RemovePort(PortId(99)),
    ];
    assert!(gateway.apply(Owner::Cluster, &refused).is_err());
    assert_eq!(dump(&mut gateway), before);
}

#[test]
fn a_full_table_takes_one_address_for_another() {
    let mut storage = Box::new(Small::new());
    let mut gateway = storage.gateway();
    let twice = nearly_full(&mut gateway);
    let with = |addresses: &[&str]| {
        let mut port = twice.clone();
        if let PortKind::Endpoint(endpoint) = &mut port.kind {
            endpoint.addresses = addresses.iter().map(|address| ip(address)).collect();
        }
        Operation::UpsertPort(port)
    };
    for addresses in [&["10.0.0.2", "10.0.0.3"][..], &["10.0.0.4", "10.0.0.1"]] {
        gateway.apply(Owner::Cluster, &[with(addresses)]).unwrap();
        assert_eq!(dump(&mut gateway).routes.len(), 6);
    }
    let full = TableError::TableFull {
        table: Table::Routes,
        capacity: 6,
    };
    let three = with(&["10.0.0.4", "10.0.0.1", "10.0.0.5"]);
    assert_eq!(gateway.apply(Owner::Cluster, &[three]), Err((0, full)));
}

#[test]
fn what_is_the_gateways_own_is_nobody_elses() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let conflict = |table, id| Err((0, TableError::Conflict { table, id }));
    let mut refused = |operation| gateway.apply(Owner::Cluster, &[operation]);
    let pod = pod(PortId(5), MAC_A, "169.254.1.1");
    assert_eq!(
        refused(Operation::UpsertPort(pod)),
        conflict(Table::Networks, 0)
    );
    let mirror = Peer {
        id: PeerId(1),
        underlay: ip("192.168.77.1"),
        ..peer()
    };
    assert_eq!(
        refused(Operation::UpsertPeer(mirror)),
        conflict(Table::Networks, 0)
    );
    let pods_address = Network {
        gateways: list(&[ip("169.254.1.1"), ip("10.244.1.3")]),
        ..network()
    };
    let result = refused(Operation::UpsertNetwork(pods_address));
    assert_eq!(result, conflict(Table::Ports, POD_B.0));
    let peers_address = Network {
        local: ip("192.168.77.2"),
        ..network()
    };
    let result = refused(Operation::UpsertNetwork(peers_address));
    assert_eq!(result, conflict(Table::Peers, 0));
}
