//! Everything that the channel tells about the core's tables.

use culvert_core::channel::*;
use culvert_core::*;

use super::common::*;
use super::model::Model;

#[derive(PartialEq, Debug)]
pub(crate) struct Dump {
    pub(crate) networks: Vec<Owned<Network>>,
    pub(crate) ports: Vec<(Owned<Port>, PortStats)>,
    pub(crate) peers: Vec<(Owned<Peer>, u32)>,
    pub(crate) routes: Vec<Owned<Route>>,
    pub(crate) counters: Vec<u64>,
}

/// Begins a conversation.
pub(crate) fn hello(gateway: &mut Gateway<'_>) -> Welcome {
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    });
    match ask(gateway, &hello) {
        Response::Hello(welcome) => welcome,
        other => panic!("{other:?}"),
    }
}

fn page(gateway: &mut Gateway<'_>, read: Read) -> Page {
    match ask(gateway, &Request::Read(read)) {
        Response::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

/// Reads the routes page by page, until one is empty.
fn routes(gateway: &mut Gateway<'_>) -> Vec<Owned<Route>> {
    let mut all: Vec<Owned<Route>> = Vec::new();
    loop {
        let after = all.last().map(|r| (r.entry.network, r.entry.prefix));
        let Page::Routes(routes) = page(gateway, Read::Routes { after }) else {
            panic!()
        };
        if routes.is_empty() {
            return all;
        }
        all.extend(routes);
    }
}

/// Reads all tables; but for the routes each is smaller than a page.
pub(crate) fn dump(gateway: &mut Gateway<'_>) -> Dump {
    let Page::Networks(networks) = page(gateway, Read::Networks { after: None }) else {
        panic!()
    };
    let Page::Ports(ports) = page(gateway, Read::Ports { after: None }) else {
        panic!()
    };
    let Page::Peers(peers) = page(gateway, Read::Peers { after: None }) else {
        panic!()
    };
    Dump {
        networks: networks.to_vec(),
        ports: ports.to_vec(),
        peers: peers.to_vec(),
        routes: routes(gateway),
        counters: Counter::all().map(|c| gateway.counter(c)).collect(),
    }
}

/// Compares what the core tells with the model.
pub(crate) fn check(gateway: &mut Gateway<'_>, model: &Model) -> Dump {
    let dump = dump(gateway);
    let mut sorted = model.clone();
    sorted.networks.sort_by_key(|n| n.entry.id);
    sorted.ports.sort_by_key(|p| p.entry.id);
    sorted.peers.sort_by_key(|p| p.entry.id);
    assert_eq!(dump.networks, sorted.networks);
    let ports: Vec<_> = dump.ports.iter().map(|(port, _)| port.clone()).collect();
    assert_eq!(ports, sorted.ports);
    for (peer, references) in &dump.peers {
        let routes = u32::try_from(model.routes_to(peer.entry.id)).unwrap();
        assert_eq!(*references, routes, "routes to peer {}", peer.entry.id);
    }
    let peers: Vec<_> = dump.peers.iter().map(|(peer, _)| peer.clone()).collect();
    assert_eq!(peers, sorted.peers);
    assert_eq!(dump.routes, model.listed_routes());
    dump
}
