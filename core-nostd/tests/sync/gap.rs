//! What is in the old and in the new set forwards all the time.

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::cases::{begin, end, put, without_other_node};
use super::common::*;
use super::dump::hello;

type Medium = Storage<2, 64, 64, 512>;

/// A route of a set: its number, and the number of the peer that it goes to.
type Set = std::collections::BTreeMap<u8, u8>;

fn set() -> impl Strategy<Value = Set> {
    prop::collection::btree_map(0..40u8, 0..6u8, 0..40)
}

fn operations_of(set: &Set) -> Vec<Operation> {
    let mut all = without_other_node().to_vec();
    let mut peers: Vec<_> = set.values().copied().collect();
    peers.sort();
    peers.dedup();
    for n in peers {
        all.push(Operation::UpsertPeer(Peer {
            id: PeerId(n.into()),
            underlay: [192, 168, 80, n].into(),
            ..peer()
        }));
    }
    for (n, peer) in set {
        let peer = PeerId((*peer).into());
        let encap = Encap::Vxlan;
        all.push(route(
            &format!("10.9.{n}.0/24"),
            NextHop::Peer { peer, encap },
        ));
    }
    all
}

/// The peer that a route of a set leads to now.
fn leads_to(gateway: &mut Gateway<'_>, n: u8) -> Option<u8> {
    let output = run(gateway, POD_A, udp(MAC_A, A, [10, 9, n, 1], b"x"));
    match output.outer?.dst {
        std::net::IpAddr::V4(peer) => Some(peer.octets()[3]),
        std::net::IpAddr::V6(_) => None,
    }
}

proptest! {
    #[test]
    fn there_is_no_gap(old in set(), new in set(), chunk in 1..MAX_OPERATIONS, broken in 0..2u64) {
        let mut storage = Box::new(Medium::new());
        let mut gateway = storage.gateway();
        hello(&mut gateway);
        put(&mut gateway, Owner::Cluster, &operations_of(&old));
        let attached = Operation::UpsertPort(pod(POD_A, MAC_A, "10.244.1.2"));
        put(&mut gateway, Owner::Attachment, &[attached]);
        let applies = operations_of(&new);
        let mut messages = vec![];
        for transaction in 0..=broken {
            messages.push(begin(transaction, Owner::Cluster, [0, 0, 6, 40]));
            let applies = applies.chunks(chunk).map(|operations| Request::Apply(Apply {
                transaction: 1,
                owner: Owner::Cluster,
                operations: list(operations),
            }));
            // The first attempt breaks half way.
            let count = if transaction < broken { applies.len() / 2 } else { applies.len() };
            messages.extend(applies.take(count));
        }
        messages.push(end(broken));
        for message in &messages {
            loop {
                let response = ask(&mut gateway, message);
                prop_assert!(!matches!(response, Response::Refused(_)), "{:?}", response);
                for (n, to) in &old {
                    if let Some(will) = new.get(n) {
                        let now = leads_to(&mut gateway, *n);
                        prop_assert!(now == Some(*to) || now == Some(*will), "{} leads to {:?}", n, now);
                    }
                }
                if !matches!(response, Response::Synced(Synced { done: false, .. })) {
                    break;
                }
            }
        }
        for n in 0..40 {
            prop_assert_eq!(leads_to(&mut gateway, n), new.get(&n).copied());
        }
        // Each peer has as many routes as lead to it.
        let Response::Page(Page::Peers(peers)) = ask(&mut gateway, &Request::Read(Read::Peers { after: None })) else {
            panic!()
        };
        for (peer, references) in &peers {
            let to = new.values().filter(|to| PeerId((**to).into()) == peer.entry.id);
            prop_assert_eq!(usize::try_from(*references).unwrap(), to.count());
        }
    }
}
