//! A shell that sends transactions and syncs to a core, and compares the core with
//! the model after each.

use culvert_core::channel::*;
use culvert_core::*;

use super::common::*;
use super::dump::{check, dump, hello};
use super::world::{World, adopted, contains, entries};

/// What a shell may send.
#[derive(Clone, Debug)]
pub(crate) enum Action {
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
pub(crate) enum Message {
    Apply(Owner, Vec<Operation>),
    Sync(Sync),
    Hello,
}

/// A core, its model, and the shell between.
pub(crate) struct Shell<'g, 's> {
    pub(crate) gateway: &'g mut Gateway<'s>,
    pub(crate) world: World,
    /// Its number, and the last `Begin`.
    pub(crate) transaction: u64,
    begin: Option<Sync>,
    last: Message,
    /// The last sync that ended, and what it answered.
    done: Option<Synced>,
    /// What the running sweep has removed, and what it will keep if nothing comes between.
    swept: u32,
    kept: Option<u32>,
}

impl<'g, 's> Shell<'g, 's> {
    pub(crate) fn new(gateway: &'g mut Gateway<'s>) -> Self {
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

    pub(crate) fn act(&mut self, action: &Action) {
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

    pub(crate) fn send(&mut self, message: &Message) {
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

    pub(crate) fn apply(&mut self, owner: Owner, operations: &[Operation]) -> bool {
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

pub(crate) fn refused(transaction: u64, error: TableError) -> Response {
    Response::Refused(Refusal {
        transaction,
        operation: 0,
        error,
    })
}
