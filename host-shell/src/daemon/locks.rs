//! One operation at a time on one attachment.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::state::Key;

/// The attachments that are being worked on.
#[derive(Default)]
pub(super) struct Locks {
    busy: Mutex<HashSet<Key>>,
    freed: Notify,
}

/// Keeps everybody else away from an attachment until dropped.
pub(super) struct Lock<'l> {
    locks: &'l Locks,
    key: Key,
}

impl Locks {
    /// Waits until nobody works on the attachment.
    pub(super) async fn lock(&self, key: &Key) -> Lock<'_> {
        loop {
            // Registered before the look, so that no wake-up falls in between.
            let freed = self.freed.notified();
            if self.set().insert(key.clone()) {
                return Lock {
                    locks: self,
                    key: key.clone(),
                };
            }
            freed.await;
        }
    }

    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.busy.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.locks.set().remove(&self.key);
        self.locks.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

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
        assert!(locks.set().is_empty());
    }
}
