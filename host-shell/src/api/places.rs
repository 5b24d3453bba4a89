//! Who is served when more clients come than there are places.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Connections served at a time; the next ones take the places of those whose
/// clients sleep, or wait.
const PLACES: usize = 128;
/// A client that keeps the daemon waiting for so long sleeps: the programs that
/// talk to the daemon send and read without a pause.
const ASLEEP: Duration = Duration::from_millis(500);
/// How often a connection without a place looks for clients that sleep.
const LOOK: Duration = Duration::from_millis(50);

/// The places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The connections that wait for their clients, in the order in which they began to.
#[derive(Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

impl Places {
    pub(super) fn new() -> Arc<Places> {
        Arc::new(Places {
            free: Arc::new(Semaphore::new(PLACES)),
            waiting: Mutex::default(),
        })
    }

    /// Waits for a place; takes that of the client that has slept longest if
    /// none is free.
    pub(super) async fn take(&self) -> OwnedSemaphorePermit {
        loop {
            if self.free.available_permits() == 0 {
                self.wake_longest_sleeper();
            }
            let place = Arc::clone(&self.free).acquire_owned();
            // The semaphore is never closed, so an error is a time that is up.
            if let Ok(Ok(place)) = timeout(LOOK, place).await {
                return place;
            }
        }
    }

    /// Waits for something that the client is to do; `None` when the connection
    /// has to give up its place meanwhile.
    pub(super) async fn client_turn<T>(&self, turn: impl Future<Output = T>) -> Option<T> {
        let leave = Arc::new(Notify::new());
        let number = {
            let mut waiting = self.waiting();
            waiting.next += 1;
            let number = waiting.next;
            let entry = (Instant::now(), Arc::clone(&leave));
            waiting.since.insert(number, entry);
            number
        };
        let done = tokio::select! {
            biased;
            done = turn => Some(done),
            () = leave.notified() => None,
        };
        self.waiting().since.remove(&number);
        done
    }

    fn wake_longest_sleeper(&self) {
        let mut waiting = self.waiting();
        if let Some(first) = waiting.since.first_entry()
            && first.get().0.elapsed() >= ASLEEP
        {
            first.remove().1.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }
}
