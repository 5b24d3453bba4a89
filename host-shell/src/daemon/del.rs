//! CNI DEL and GC.

use std::collections::HashSet;

use super::{Daemon, add};
use crate::cni::{CniError, Environment, NetConf};
use crate::state::Key;

impl Daemon {
    /// Carries out a DEL. What is not there, or not any more, is deleted with success.
    pub(super) async fn del(&self, environment: &Environment) -> Result<(), CniError> {
        self.delete(add::key(environment)).await
    }

    pub(super) async fn delete(&self, key: Key) -> Result<(), CniError> {
        let _lock = self.locks.lock(&key).await;
        let wanted = key.clone();
        let found = self.with_store(move |store| store.get(&wanted)).await?;
        let Some(attachment) = found else {
            return Ok(());
        };
        self.dismantle(&attachment).await?;
        let wanted = key.clone();
        self.with_store(move |store| store.release(&wanted)).await?;
        self.set_problem(&problem_name(&key), None);
        tracing::info!(
            container = key.container_id,
            ifname = key.ifname,
            address = ?attachment.addresses,
            "detached"
        );
        Ok(())
    }

    /// Deletes every attachment that is not in the runtime's list.
    pub(super) async fn gc(&self, conf: &NetConf) -> Result<(), CniError> {
        let valid: HashSet<(String, String)> = conf.valid_attachments()?.into_iter().collect();
        let all = self.with_store(|store| store.list()).await?;
        for attachment in all {
            let key = attachment.key;
            if !valid.contains(&(key.container_id.clone(), key.ifname.clone())) {
                self.delete(key).await?;
            }
        }
        Ok(())
    }
}

/// The name of an attachment's entry among the daemon's problems.
pub(super) fn problem_name(key: &Key) -> String {
    format!("{}/{}", key.container_id, key.ifname)
}
