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
mod world;

use any::{groundwork, operation};
use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use dump::{check, dump, hello};
use model::Model;
use proptest::prelude::*;
use world::{World, adopted, contains, entries, usage};

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

/// What a shell may send.
#[derive(Clone, Debug)]
enum Action {
    Apply(Owner, Vec<Operation>),
    Begin(Owner, Capacities),
    /// The last `Begin`, late.
    BeginAgain,
    End,
    EndToTheEnd,
    EndOfAnother,
    Abort,
    Hello,
    /// The last message, whatever it was.
    Again,
}

#[derive(Clone, Debug)]
enum Message {
    Apply(Owner, Vec<Operation>),
    Sync(Sync),
    Hello,
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

/// A core, its model, and the shell between.
struct Shell<'g, 's> {
    gateway: &'g mut Gateway<'s>,
    world: World,
    /// Its number, and the last `Begin`.
    transaction: u64,
    begin: Option<Sync>,
    last: Message,
    /// The last sync that ended, and what it answered.
    done: Option<Synced>,
    /// What the running sweep has removed, and what it will keep if nothing comes between.
    swept: u32,
    kept: Option<u32>,
}

impl<'g, 's> Shell<'g, 's> {
    fn new(gateway: &'g mut Gateway<'s>) -> Self {
        hello(gateway);
        Shell {
            gateway,
            world: World::default(),
            transaction: 0,
            begin: None,
            last: Message::Hello,
            done: None,
            swept: 0,
            kept: None,
        }
    }

    fn act(&mut self, action: &Action) {
        let transaction = self.transaction;
        let message = match action {
            Action::Apply(owner, operations) => Message::Apply(*owner, operations.clone()),
            Action::Begin(owner, additions) => {
                self.transaction += 1;
                let begin = Sync::Begin {
                    transaction: self.transaction,
                    owner: *owner,
                    additions: *additions,
                };
                self.begin = Some(begin);
                Message::Sync(begin)
            }
            Action::BeginAgain => match self.begin {
                Some(begin) => Message::Sync(begin),
                None => return,
            },
            Action::End => Message::Sync(Sync::End { transaction }),
            Action::EndToTheEnd => {
                while self.world.runs(transaction) {
                    self.send(&Message::Sync(Sync::End { transaction }));
                }
                return;
            }
            Action::EndOfAnother => Message::Sync(Sync::End { transaction: 999 }),
            Action::Abort => Message::Sync(Sync::Abort { transaction }),
            Action::Hello => Message::Hello,
            Action::Again => self.last.clone(),
        };
        self.send(&message);
    }

    fn send(&mut self, message: &Message) {
        self.last = message.clone();
        match message {
            Message::Hello => {
                hello(self.gateway);
                self.world.running = None;
                self.done = None;
            }
            Message::Apply(owner, operations) => {
                self.apply(*owner, operations);
            }
            Message::Sync(sync) => self.sync(sync),
        }
        check(self.gateway, &self.world.tables);
    }

    fn apply(&mut self, owner: Owner, operations: &[Operation]) -> bool {
        let before = dump(self.gateway);
        let expected = self.world.apply(owner, operations);
        let request = Request::Apply(Apply {
            transaction: 7,
            owner,
            operations: list(operations),
        });
        let response = ask(self.gateway, &request);
        let applied = response == Response::Applied { transaction: 7 };
        assert_eq!(
            applied,
            expected.is_some(),
            "{owner} {operations:?}: {response:?}"
        );
        if applied {
            self.kept = None;
        } else {
            assert_eq!(dump(self.gateway), before, "a refusal changed something");
        }
        applied
    }

    fn sync(&mut self, sync: &Sync) {
        let before = dump(self.gateway);
        let response = ask(self.gateway, &Request::Sync(*sync));
        match *sync {
            Sync::Begin {
                transaction,
                owner,
                additions,
            } => {
                let was_running = self.world.runs(transaction);
                match self.world.begin(transaction, owner, additions) {
                    Ok(()) => {
                        let Response::Synced(synced) = response else {
                            panic!("{response:?}")
                        };
                        assert!(synced.done && synced.transaction == transaction);
                        if !was_running {
                            (self.swept, self.kept, self.done) = (0, None, None);
                        }
                    }
                    Err(error) => assert_eq!(response, refused(transaction, error)),
                }
                assert_eq!(dump(self.gateway), before);
            }
            Sync::Abort { transaction } => {
                assert!(matches!(
                    response,
                    Response::Synced(Synced { done: true, .. })
                ));
                if self.world.runs(transaction) {
                    self.world.running = None;
                }
                assert_eq!(dump(self.gateway), before);
            }
            Sync::End { transaction } if self.world.runs(transaction) => self.swept(response),
            Sync::End { transaction } => {
                let expected = match self.done {
                    Some(synced) if synced.transaction == transaction => Response::Synced(synced),
                    _ => refused(transaction, TableError::SyncNotRunning),
                };
                assert_eq!(response, expected);
                assert_eq!(dump(self.gateway), before);
            }
        }
    }

    /// Takes in what an `End` did.
    fn swept(&mut self, response: Response) {
        let Response::Synced(synced) = response else {
            panic!("{response:?}")
        };
        let (goal, kept) = self.world.swept();
        if self.world.sweep() {
            self.kept = Some(kept);
        }
        let now = adopted(&dump(self.gateway));
        assert!(contains(&self.world.tables, &now), "a sweep adds nothing");
        assert!(contains(&now, &goal), "a sweep removed what it may not");
        self.swept += entries(&self.world.tables) - entries(&now);
        assert_eq!(synced.swept, self.swept);
        self.world.tables = now;
        if synced.done {
            if let Some(kept) = self.kept {
                assert_eq!(synced.kept, kept);
                check(self.gateway, &goal);
            }
            self.world.running = None;
            self.done = Some(synced);
        }
    }
}

fn refused(transaction: u64, error: TableError) -> Response {
    Response::Refused(Refusal {
        transaction,
        operation: 0,
        error,
    })
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
