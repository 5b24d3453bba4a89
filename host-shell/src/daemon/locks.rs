//! One operation at a time on one attachment.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::state::Key;

/// The attachments that are being worked on.
#[derive(Default)]
pub(super) struct Locks {
    busy: Mutex<Busy>,
    freed: Notify,
}

#[derive(Default)]
struct Busy {
    keys: HashSet<Key>,
    /// Nobody is let in any more.
    closed: bool,
}

/// Keeps everybody else away from an attachment until dropped.
pub(super) struct Lock<'l> {
    locks: &'l Locks,
    key: Key,
}

impl Locks {
    /// Waits until nobody works on the attachment; for ever once they are closed.
    pub(super) async fn lock(&self, key: &Key) -> Lock<'_> {
        loop {
            // Registered before the look, so that no wake-up falls in between.
            let freed = self.freed.notified();
            if self.busy().admit(key) {
                return Lock {
                    locks: self,
                    key: key.clone(),
                };
            }
            freed.await;
        }
    }

    /// Lets nobody in any more, and waits for those who are inside.
    pub(super) async fn close(&self) {
        self.busy().closed = true;
        loop {
            let freed = self.freed.notified();
            if self.busy().keys.is_empty() {
                return;
            }
            freed.await;
        }
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Busy {
    fn admit(&mut self, key: &Key) -> bool {
        !self.closed && self.keys.insert(key.clone())
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.locks.busy().keys.remove(&self.key);
        self.locks.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_a_key_and_none_waits_for_another() {
        let locks = Arc::new(Locks::default());
        let inside = Arc::new(AtomicU32::new(0));
        let key = |name: &str| Key {
            container_id: name.to_owned(),
            ifname: "eth0".to_owned(),
        };
        let other = locks.lock(&key("other")).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (locks, inside, key) = (locks.clone(), inside.clone(), key("one"));
                tokio::spawn(async move {
                    let _lock = locks.lock(&key).await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        drop(other);
        assert!(locks.busy().keys.is_empty());
    }

    #[tokio::test]
    async fn closing_waits_for_those_inside_and_keeps_the_others_out() {
        let locks = Locks::default();
        let key = |name: &str| Key {
            container_id: name.to_owned(),
            ifname: "eth0".to_owned(),
        };
        let inside = locks.lock(&key("inside")).await;
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, locks.close()).await.is_err());
        assert!(timeout(soon, locks.lock(&key("late"))).await.is_err());
        drop(inside);
        assert!(timeout(soon, locks.close()).await.is_ok());
    }
}
