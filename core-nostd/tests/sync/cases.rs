//! What a sync promises, one by one.

use std::net::Ipv4Addr;

use culvert_core::channel::*;
use culvert_core::*;

use super::common::*;
use super::dump::hello;
use super::{capacities, refused};

type Medium = Storage<2, 64, 64, 512>;

pub(crate) fn begin(transaction: u64, owner: Owner, additions: [u32; 4]) -> Request {
    Request::Sync(Sync::Begin {
        transaction,
        owner,
        additions: capacities(additions),
    })
}

pub(crate) fn end(transaction: u64) -> Request {
    Request::Sync(Sync::End { transaction })
}

/// Sends until it is done; the answer and how often it was sent.
fn to_the_end(gateway: &mut Gateway<'_>, request: &Request) -> (Synced, u32) {
    for sent in 1..100_000 {
        match ask(gateway, request) {
            Response::Synced(synced) if synced.done => return (synced, sent),
            Response::Synced(_) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("{request:?} does not end")
}

pub(crate) fn put(gateway: &mut Gateway<'_>, owner: Owner, operations: &[Operation]) {
    for chunk in operations.chunks(MAX_OPERATIONS) {
        assert_eq!(gateway.apply(owner, chunk), Ok(()));
    }
}

/// A conversation with a node of two pods, in a cluster of two.
fn node(gateway: &mut Gateway<'_>) {
    hello(gateway);
    put(gateway, Owner::Cluster, &without_other_node());
    let other = [
        Operation::UpsertPeer(peer()),
        route("10.244.2.0/24", TO_PEER),
        route("192.168.77.2/32", TO_PEER),
    ];
    put(gateway, Owner::Cluster, &other);
    let pods = [
        Operation::UpsertPort(pod(POD_A, MAC_A, "10.244.1.2")),
        Operation::UpsertPort(pod(POD_B, MAC_B, "10.244.1.3")),
    ];
    put(gateway, Owner::Attachment, &pods);
}

/// The cluster's entries of [`node`] but the other node and its routes.
pub(crate) fn without_other_node() -> [Operation; 6] {
    [
        Operation::UpsertPort(underlay(1500)),
        Operation::UpsertNetwork(network()),
        Operation::UpsertPort(host()),
        route("10.244.1.0/24", NextHop::Blackhole),
        route("10.244.1.0/32", NextHop::Host),
        route("192.168.77.1/32", NextHop::Host),
    ]
}

fn fate(gateway: &mut Gateway<'_>, to: [u8; 4]) -> Fate {
    run(gateway, POD_A, udp(MAC_A, A, to, b"x")).fate
}

#[test]
fn what_is_not_named_goes_and_what_others_need_stays() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    // The attachment's route keeps the cluster's peer.
    let leaning = route("10.9.0.0/16", TO_PEER);
    put(&mut gateway, Owner::Attachment, &[leaning]);
    to_the_end(&mut gateway, &begin(1, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &without_other_node());
    assert_eq!(fate(&mut gateway, REMOTE), Fate::Forward(UNDERLAY));
    let (synced, _) = to_the_end(&mut gateway, &end(1));
    assert_eq!((synced.swept, synced.kept), (2, 1));
    assert_eq!(fate(&mut gateway, REMOTE), Fate::Drop(DropReason::NoRoute));
    assert_eq!(fate(&mut gateway, [10, 9, 0, 1]), Fate::Forward(UNDERLAY));
    assert_eq!(fate(&mut gateway, B), Fate::Forward(POD_B));
    // Once more, late: the same answer.
    assert_eq!(ask(&mut gateway, &end(1)), Response::Synced(synced));
    // When nobody needs it any more the next sync sweeps it.
    let gone = Operation::RemoveRoute {
        network: NET,
        prefix: prefix("10.9.0.0/16"),
    };
    put(&mut gateway, Owner::Attachment, &[gone]);
    to_the_end(&mut gateway, &begin(2, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &without_other_node());
    let (synced, _) = to_the_end(&mut gateway, &end(2));
    assert_eq!((synced.swept, synced.kept), (1, 0));
}

#[test]
fn an_owner_with_nothing_leaves_nothing() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    for owner in [Owner::Attachment, Owner::Cluster] {
        to_the_end(&mut gateway, &begin(1, owner, [0; 4]));
        let (synced, _) = to_the_end(&mut gateway, &end(1));
        assert_eq!(synced.kept, 0, "{owner}");
    }
    assert_eq!(hello(&mut gateway).used, Capacities::default());
}

#[test]
fn a_broken_sync_sweeps_nothing_and_gives_its_room_back() {
    let full = [0, 4, 7, 57];
    let break_it: [fn(&mut Gateway<'_>); 4] = [
        |gateway| {
            hello(gateway);
        },
        |gateway| gateway.abort_sync(),
        |gateway| {
            let abort = Request::Sync(Sync::Abort { transaction: 1 });
            assert!(matches!(ask(gateway, &abort), Response::Synced(_)));
        },
        |gateway| {
            // Its own owner begins anew, and that one breaks, too.
            to_the_end(gateway, &begin(2, Owner::Cluster, [0, 0, 0, 1]));
            gateway.abort_sync();
        },
    ];
    for broken in break_it {
        let mut storage = Box::new(Tiny::new());
        let mut gateway = storage.gateway();
        node(&mut gateway);
        let one_more = route("10.9.0.0/16", NextHop::Blackhole);
        let before = gateway.capacities();
        to_the_end(&mut gateway, &begin(1, Owner::Cluster, full));
        put(&mut gateway, Owner::Cluster, &without_other_node());
        let (table, capacity) = (Table::Routes, before.routes);
        let no_room = Err((0, TableError::TableFull { table, capacity }));
        let operations = [one_more];
        assert_eq!(gateway.apply(Owner::Attachment, &operations), no_room);
        broken(&mut gateway);
        assert_eq!(
            ask(&mut gateway, &end(1)),
            refused(1, TableError::SyncNotRunning)
        );
        assert_eq!(gateway.apply(Owner::Attachment, &operations), Ok(()));
        assert_eq!(fate(&mut gateway, REMOTE), Fate::Forward(UNDERLAY));
    }
}

#[test]
fn one_sync_at_a_time() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    to_the_end(&mut gateway, &begin(1, Owner::Cluster, [0; 4]));
    let owner = Owner::Cluster;
    assert_eq!(
        ask(&mut gateway, &begin(2, Owner::Attachment, [0; 4])),
        refused(2, TableError::SyncRunning { owner })
    );
    to_the_end(&mut gateway, &end(1));
    to_the_end(&mut gateway, &begin(2, Owner::Attachment, [0; 4]));
}

#[test]
fn a_reservation_is_kept_used_up_and_balanced() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    let room = 64 - 7;
    let table = Table::Routes;
    let too_much = begin(1, Owner::Cluster, [0, 0, 0, room + 1]);
    let full = TableError::TableFull {
        table,
        capacity: 64,
    };
    assert_eq!(ask(&mut gateway, &too_much), refused(1, full));
    to_the_end(&mut gateway, &begin(2, Owner::Cluster, [0, 0, 0, 2]));
    // The others fill what is left; an endpoint's addresses are routes.
    let others = (0..room - 2).map(|n| route(&format!("10.9.{n}.0/24"), NextHop::Blackhole));
    put(&mut gateway, Owner::Attachment, &others.collect::<Vec<_>>());
    let pod = Operation::UpsertPort(pod(PortId(5), MAC_A, "10.244.1.9"));
    assert_eq!(
        gateway.apply(Owner::Attachment, std::slice::from_ref(&pod)),
        Err((0, full))
    );
    let new = |n: u8| route(&format!("10.8.{n}.0/24"), NextHop::Blackhole);
    // What is undone is given back.
    let impossible = Operation::RemovePort(PortId(99));
    let undone = [new(1), new(2), impossible];
    assert!(gateway.apply(Owner::Cluster, &undone).is_err());
    put(&mut gateway, Owner::Cluster, &[new(1), new(1), new(2)]);
    let used_up = TableError::SyncReservation { table, reserved: 0 };
    assert_eq!(gateway.apply(Owner::Cluster, &[new(3)]), Err((0, used_up)));
    let removal = Operation::RemoveRoute {
        network: NET,
        prefix: prefix("10.8.1.0/24"),
    };
    put(&mut gateway, Owner::Cluster, &[removal, new(3)]);
    let another = Peer {
        id: PeerId(1),
        underlay: ip("192.168.77.3"),
        ..peer()
    };
    let table = Table::Peers;
    let none = TableError::SyncReservation { table, reserved: 0 };
    let refused = gateway.apply(Owner::Cluster, &[Operation::UpsertPeer(another)]);
    assert_eq!(refused, Err((0, none)));
}

#[test]
fn what_a_refused_transaction_named_is_not_named() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    to_the_end(&mut gateway, &begin(1, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &without_other_node());
    let named = [
        Operation::UpsertPeer(peer()),
        route("10.244.2.0/24", TO_PEER),
        Operation::UpsertPeer(Peer {
            transit: true,
            ..peer()
        }),
    ];
    // Named and changed, but undone; what was named before stays named.
    let mut refused = named.to_vec();
    refused.extend(without_other_node());
    refused.push(Operation::RemoveRoute {
        network: NET,
        prefix: prefix("10.244.1.0/32"),
    });
    refused.push(Operation::RemovePort(PortId(99)));
    assert!(gateway.apply(Owner::Cluster, &refused).is_err());
    let (synced, _) = to_the_end(&mut gateway, &end(1));
    assert_eq!((synced.swept, synced.kept), (3, 0));
    assert_eq!(hello(&mut gateway).used.peers, 0);
    assert_eq!(fate(&mut gateway, [10, 244, 1, 0]), Fate::Forward(HOST));
}

#[test]
fn host_routes_go_with_their_port() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    to_the_end(&mut gateway, &begin(1, Owner::Attachment, [0; 4]));
    let kept = Operation::UpsertPort(pod(POD_A, MAC_A, "10.244.1.2"));
    put(&mut gateway, Owner::Attachment, &[kept]);
    let (synced, _) = to_the_end(&mut gateway, &end(1));
    assert_eq!((synced.swept, synced.kept), (1, 0));
    assert_eq!(hello(&mut gateway).used.routes, 6);
    assert_eq!(fate(&mut gateway, B), Fate::Drop(DropReason::Blackhole));
    assert_eq!(fate(&mut gateway, A), Fate::Forward(POD_A));
}

/// A cluster's routes and peers, many of them.
fn big(routes: u32, peers: u16) -> Vec<Operation> {
    let mut all = without_other_node().to_vec();
    for id in 1..=peers {
        all.push(Operation::UpsertPeer(Peer {
            id: PeerId(id),
            underlay: Ipv4Addr::from_bits(0xc0a8_5000 + u32::from(id)).into(),
            ..peer()
        }));
    }
    for n in 0..routes {
        let address = Ipv4Addr::from_bits(0x0a80_0000 + (n << 8)).into();
        let peer = PeerId(u16::try_from(n).unwrap() % peers + 1);
        all.push(Operation::UpsertRoute(Route {
            network: NET,
            prefix: IpPrefix::new(address, 24).unwrap(),
            next_hop: NextHop::Peer {
                peer,
                encap: Encap::Vxlan,
            },
        }));
    }
    all
}

fn route_of(operation: &Operation) -> Route {
    match operation {
        Operation::UpsertRoute(route) => *route,
        other => panic!("{other:?}"),
    }
}

fn total(gateway: &mut Gateway<'_>) -> u32 {
    let mut sum = 0;
    let mut after = None;
    loop {
        let Response::Page(Page::Routes(routes)) =
            ask(gateway, &Request::Read(Read::Routes { after }))
        else {
            panic!()
        };
        let Some(last) = routes.last() else {
            return sum;
        };
        after = Some((last.entry.network, last.entry.prefix));
        sum += u32::try_from(routes.len()).unwrap();
    }
}

/// One call looks at 32 entries at most and removes 16: with nothing to remove
/// there are as many calls as it takes to pass all, and else as it takes to
/// remove them.
#[test]
fn a_sweep_goes_in_bounded_steps_and_both_owners_write_between() {
    type Large = Storage<2, 64, 300, 4000>;
    let mut storage: Box<Large> = Box::new(Large::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    put(&mut gateway, Owner::Cluster, &big(3000, 250));
    let entries = 3000 + 7 + 2 * 64 + 300 + 2;

    // All is named.
    to_the_end(&mut gateway, &begin(1, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &big(3000, 250));
    let (synced, calls) = to_the_end(&mut gateway, &end(1));
    // But the other node with its two routes.
    assert_eq!((synced.swept, synced.kept), (3, 0));
    assert!(calls >= entries / 32, "{calls} calls");
    assert!(calls <= entries / 32 + 2, "{calls} calls");

    // Half is named, both owners write between the steps, messages are repeated.
    to_the_end(&mut gateway, &begin(2, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &big(1500, 125));
    let mut left = total(&mut gateway);
    let mut calls = 0;
    let mut added = 0;
    loop {
        let Response::Synced(synced) = ask(&mut gateway, &end(2)) else {
            panic!()
        };
        let now = total(&mut gateway);
        assert!(left - now <= 16, "{left} - {now}");
        left = now;
        if synced.done {
            // But the peer and the route that were named in between.
            assert_eq!((synced.swept, synced.kept), (1500 - 1 + 125 - 1, 0));
            break;
        }
        if calls < 80 {
            for owner in [Owner::Attachment, Owner::Cluster] {
                let text = format!(
                    "10.{}.{calls}.0/24",
                    if owner == Owner::Cluster { 64 } else { 255 }
                );
                put(&mut gateway, owner, &[route(&text, NextHop::Host)]);
                added += 1;
            }
            // Of the routes that were to go, the last is named just in time, and
            // the first, which is gone, comes back.
            let all = big(3000, 250);
            let peer = all
                .iter()
                .find(|o| matches!(o, Operation::UpsertPeer(p) if p.id == PeerId(250)));
            let again = |o: &&Operation| matches!(o, Operation::UpsertRoute(r) if r.prefix == prefix("10.133.220.0/24"));
            let again = Operation::UpsertRoute(Route {
                next_hop: NextHop::Host,
                ..route_of(all.iter().find(again).unwrap())
            });
            let mut late = vec![peer.unwrap().clone(), all.last().unwrap().clone()];
            if calls == 70 {
                late.push(again);
            }
            put(&mut gateway, Owner::Cluster, &late);
            left = total(&mut gateway);
        }
        calls += 1;
        // What was named stays all the time.
        for n in [0u8, 5] {
            assert_eq!(fate(&mut gateway, [10, 128, n, 9]), Fate::Forward(UNDERLAY));
        }
    }
    assert!(calls >= (1499 + 124) / 16, "{calls} calls");
    assert_eq!(left, 1500 + 5 + added + 2);
}

#[test]
fn stamps_of_many_broken_syncs_do_not_come_back() {
    let mut storage = Box::new(Medium::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    let all = big(200, 20);
    put(&mut gateway, Owner::Cluster, &all);
    let mut long = 0;
    // Each broken sync names one entry that no other does, if there are so many.
    for transaction in 1..=1000u64 {
        let request = begin(transaction, Owner::Cluster, [0; 4]);
        let (_, calls) = to_the_end(&mut gateway, &request);
        long += u32::from(calls > 1);
        let index = usize::try_from(transaction).unwrap() % all.len();
        put(&mut gateway, Owner::Cluster, &all[index..=index]);
        if transaction % 2 == 0 {
            hello(&mut gateway);
        }
    }
    assert_eq!(long, 3, "stamps are cleared once in 254 syncs");
    to_the_end(&mut gateway, &begin(5000, Owner::Cluster, [0; 4]));
    put(&mut gateway, Owner::Cluster, &without_other_node());
    let (synced, _) = to_the_end(&mut gateway, &end(5000));
    assert_eq!((synced.swept, synced.kept), (223, 0));
}

/// A stamp is a byte: the 255th sync behind one has the same again.
#[test]
fn an_old_stamp_is_not_taken_for_a_new_one() {
    let extra = route("10.9.0.0/16", NextHop::Blackhole);
    let cases = [
        (1, 254),
        (1, 255),
        (1, 256),
        (3, 255),
        (254, 255),
        (255, 255),
    ];
    for ((named_in, distance), ended) in cases
        .iter()
        .flat_map(|case| [(*case, true), (*case, false)])
    {
        let mut storage = Box::new(Tiny::new());
        let mut gateway = storage.gateway();
        node(&mut gateway);
        let last = named_in + distance;
        let sync = |gateway: &mut Gateway<'_>, transaction| {
            let request = begin(transaction, Owner::Cluster, [0, 0, 0, 1]);
            to_the_end(gateway, &request);
        };
        for transaction in 1..last {
            sync(&mut gateway, transaction);
            if transaction == named_in {
                put(&mut gateway, Owner::Cluster, std::slice::from_ref(&extra));
            }
            if transaction == named_in && ended {
                put(&mut gateway, Owner::Cluster, &without_other_node());
                let (synced, _) = to_the_end(&mut gateway, &end(transaction));
                assert_eq!((synced.swept, synced.kept), (3, 0), "{named_in} {distance}");
            }
        }
        sync(&mut gateway, last);
        put(&mut gateway, Owner::Cluster, &without_other_node());
        let (synced, _) = to_the_end(&mut gateway, &end(last));
        let expected = if ended { 1 } else { 4 };
        let case = format!("{named_in} + {distance}, ended: {ended}");
        assert_eq!((synced.swept, synced.kept), (expected, 0), "{case}");
    }
}

#[test]
fn what_is_kept_is_kept_in_every_sync() {
    let mut storage = Box::new(Tiny::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    // Named in the first sync, and never again.
    let leaning = route("10.9.0.0/16", TO_PEER);
    put(&mut gateway, Owner::Attachment, &[leaning]);
    for transaction in 1..=600 {
        to_the_end(&mut gateway, &begin(transaction, Owner::Cluster, [0; 4]));
        if transaction == 1 {
            let named = [Operation::UpsertPeer(peer())];
            put(&mut gateway, Owner::Cluster, &named);
        }
        put(&mut gateway, Owner::Cluster, &without_other_node());
        let (synced, _) = to_the_end(&mut gateway, &end(transaction));
        assert_eq!(synced.kept, u32::from(transaction > 1), "{transaction}");
    }
}

#[test]
fn a_begin_that_clears_stamps_is_repeated_and_can_break() {
    let mut storage = Box::new(Medium::new());
    let mut gateway = storage.gateway();
    node(&mut gateway);
    put(&mut gateway, Owner::Cluster, &big(400, 40));
    for transaction in 1..=254 {
        to_the_end(&mut gateway, &begin(transaction, Owner::Cluster, [0; 4]));
    }
    let clearing = |gateway: &mut Gateway<'_>, transaction| {
        let response = ask(gateway, &begin(transaction, Owner::Cluster, [0; 4]));
        assert!(matches!(
            response,
            Response::Synced(Synced { done: false, .. })
        ));
    };
    clearing(&mut gateway, 300);
    clearing(&mut gateway, 300);
    assert_eq!(
        ask(&mut gateway, &end(300)),
        refused(300, TableError::SyncNotRunning)
    );
    hello(&mut gateway);
    // From the beginning again.
    clearing(&mut gateway, 301);
    let (_, calls) = to_the_end(&mut gateway, &begin(301, Owner::Cluster, [0; 4]));
    assert!(calls >= (400 + 2 * 64) / 32, "{calls}");
    put(&mut gateway, Owner::Cluster, &big(400, 40));
    let (synced, _) = to_the_end(&mut gateway, &end(301));
    assert_eq!((synced.swept, synced.kept), (3, 0));
}
