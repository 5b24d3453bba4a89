//! Syncs between transactions of both owners: what is read back is what a model
//! has, and any start leads to any goal.

#[path = "../transactions/any.rs"]
mod any;
mod cases;
#[path = "../common/mod.rs"]
mod common;
#[path = "../transactions/dump.rs"]
mod dump;
mod gap;
#[path = "../transactions/model.rs"]
mod model;
mod shell;
mod world;

use any::{groundwork, operation};
use culvert_core::channel::*;
use culvert_core::*;
use dump::check;
use model::Model;
use proptest::prelude::*;
use shell::{Action, Message, Shell, refused};
use world::{contains, usage};

const NETWORKS: u16 = 2;
const PORTS: u16 = 5;
const PEERS: u16 = 5;
const ROUTES: usize = 10;
const CAPACITIES: [u32; 4] = [2, 5, 5, 10];
type Small = Storage<2, 5, 5, 10>;

fn capacities(numbers: [u32; 4]) -> Capacities {
    let [networks, ports, peers, routes] = numbers;
    Capacities {
        networks,
        ports,
        peers,
        routes,
    }
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![1 => Just(Owner::Attachment), 2 => Just(Owner::Cluster)]
}

fn additions() -> impl Strategy<Value = Capacities> {
    let some = (0..2u32, 0..4u32, 0..4u32, 0..7u32);
    let some = some.prop_map(|(n, p, q, r)| capacities([n, p, q, r]));
    let too_many = Just(capacities([0, 0, 0, 11]));
    prop_oneof![9 => some, 1 => too_many]
}

fn action() -> impl Strategy<Value = Action> {
    let operations = prop_oneof![
        2 => prop::collection::vec(operation(), 1),
        1 => prop::collection::vec(operation(), 2..10),
    ];
    prop_oneof![
        30 => (owner(), operations).prop_map(|(owner, all)| Action::Apply(owner, all)),
        5 => (owner(), additions()).prop_map(|(owner, n)| Action::Begin(owner, n)),
        1 => Just(Action::BeginAgain),
        1 => Just(Action::End),
        3 => Just(Action::EndToTheEnd),
        1 => Just(Action::EndOfAnother),
        1 => Just(Action::Abort),
        1 => Just(Action::Hello),
        2 => Just(Action::Again),
    ]
}

fn history(length: usize) -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 0..length)
}

fn follow(shell: &mut Shell<'_, '_>, history: &[Action]) {
    shell.act(&Action::Apply(Owner::Cluster, groundwork()));
    for action in history {
        shell.act(action);
    }
}

/// The tables that transactions alone lead to.
fn goal(history: &[Action]) -> Model {
    let mut goal = Model::default();
    goal.apply(Owner::Cluster, &groundwork()).unwrap();
    for action in history {
        if let Action::Apply(owner, operations) = action {
            let _ = goal.apply(*owner, operations);
        }
    }
    goal
}

/// What an owner's entries are made with, what others refer to first.
fn upserts(goal: &Model, owner: Owner) -> Vec<Operation> {
    fn own<T: Clone>(entries: &[Owned<T>], owner: Owner) -> impl Iterator<Item = T> {
        let own = entries.iter().filter(move |e| e.owner == owner);
        own.map(|e| e.entry.clone())
    }
    let ports = |underlay: bool| {
        let is = move |port: &Port| (port.kind == PortKind::Underlay) == underlay;
        own(&goal.ports, owner)
            .filter(is)
            .map(Operation::UpsertPort)
    };
    let mut all: Vec<_> = ports(true).collect();
    all.extend(own(&goal.networks, owner).map(Operation::UpsertNetwork));
    all.extend(ports(false));
    all.extend(own(&goal.peers, owner).map(Operation::UpsertPeer));
    all.extend(own(&goal.routes, owner).map(Operation::UpsertRoute));
    all
}

/// Whether what the operation refers to is there as it should be.
fn is_founded(operation: &Operation, now: &Model, goal: &Model) -> bool {
    let network = |id: NetworkId| {
        let find = |tables: &Model| tables.networks.iter().find(|n| n.entry.id == id).cloned();
        find(now) == find(goal)
    };
    let port = |id: PortId| {
        let find = |tables: &Model| tables.ports.iter().find(|p| p.entry.id == id).cloned();
        find(now) == find(goal)
    };
    let peer = |id: PeerId| {
        let find = |tables: &Model| tables.peers.iter().find(|p| p.entry.id == id).cloned();
        find(now) == find(goal)
    };
    match operation {
        Operation::UpsertNetwork(new) => port(new.underlay),
        Operation::UpsertPort(new) => match &new.kind {
            PortKind::Endpoint(endpoint) => network(endpoint.network),
            PortKind::Host { network: id } => network(*id),
            PortKind::Underlay | PortKind::Wire(_) => true,
        },
        Operation::UpsertPeer(new) => network(new.network),
        Operation::UpsertRoute(new) => {
            let next_hop = match new.next_hop {
                NextHop::Endpoint(id) => port(id),
                NextHop::Peer { peer: id, .. } => peer(id),
                NextHop::Blackhole | NextHop::Host => true,
            };
            network(new.network) && next_hop
        }
        _ => panic!("{operation:?} is no upsert"),
    }
}

impl Shell<'_, '_> {
    /// One sync of an owner, each message `times` times.
    fn pursue(&mut self, goal: &Model, owner: Owner, times: usize) {
        let used = usage(&self.world.tables, None);
        let own = usage(&self.world.tables, Some(owner));
        let wanted = usage(goal, Some(owner));
        let additions = std::array::from_fn(|table| {
            let room = CAPACITIES[table] - used[table];
            wanted[table].saturating_sub(own[table]).min(room)
        });
        self.act(&Action::Begin(owner, capacities(additions)));
        for operation in upserts(goal, owner) {
            if is_founded(&operation, &self.world.tables, goal) {
                for _ in 0..times {
                    self.apply(owner, std::slice::from_ref(&operation));
                }
            }
            if times > 1 {
                self.act(&Action::BeginAgain);
            }
        }
        self.act(&Action::EndToTheEnd);
        for _ in 1..times {
            self.act(&Action::Again);
        }
    }

    fn has_reached(&self, goal: &Model) -> bool {
        contains(&self.world.tables, goal) && contains(goal, &self.world.tables)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::default() })]

    #[test]
    fn syncs_and_transactions_follow_the_model(history in history(60)) {
        let mut storage = Box::new(Small::new());
        let mut gateway = storage.gateway();
        let mut shell = Shell::new(&mut gateway);
        follow(&mut shell, &history);
        // No reference and no reservation has leaked: everything can be removed,
        // and all room can be reserved.
        shell.send(&Message::Hello);
        for (owner, operation) in shell.world.tables.removals() {
            prop_assert!(shell.apply(owner, &[operation]));
        }
        shell.act(&Action::Begin(Owner::Attachment, capacities(CAPACITIES)));
        prop_assert!(shell.world.runs(shell.transaction));
    }

    #[test]
    fn syncs_lead_from_anywhere_to_anywhere(start in history(40), wanted in history(40), times in 1..3usize) {
        let mut storage = Box::new(Small::new());
        let mut gateway = storage.gateway();
        let mut shell = Shell::new(&mut gateway);
        follow(&mut shell, &start);
        shell.send(&Message::Hello);
        let goal = goal(&wanted);
        let mut rounds = 0;
        while !shell.has_reached(&goal) {
            for owner in [Owner::Attachment, Owner::Cluster] {
                shell.pursue(&goal, owner, times);
            }
            rounds += 1;
            prop_assert!(rounds < 8, "{:?}\nis not\n{goal:?}", shell.world.tables);
        }
        check(shell.gateway, &goal);
    }
}
