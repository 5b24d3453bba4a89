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

    /// Deletes every attachment of this network configuration that is not in the
    /// runtime's list, which names those of this configuration only. One that cannot
    /// be deleted does not keep the others.
    pub(super) async fn gc(&self, conf: &NetConf) -> Result<(), CniError> {
        let valid: HashSet<(String, String)> = conf.valid_attachments()?.into_iter().collect();
        let all = self.with_store(|store| store.list()).await?;
        let stale = all.into_iter().filter(|attachment| {
            let key = &attachment.key;
            let ours = attachment.configuration.as_ref();
            ours.is_none_or(|name| *name == conf.name)
                && !valid.contains(&(key.container_id.clone(), key.ifname.clone()))
        });
        let mut failed: Option<CniError> = None;
        for attachment in stale {
            let name = problem_name(&attachment.key);
            if let Err(error) = self.delete(attachment.key).await {
                let details = match failed {
                    None => format!("{name} was not deleted"),
                    Some(before) => format!("{}, {name} neither", before.details),
                };
                failed = Some(error.with_details(details));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The name of an attachment's entry among the daemon's problems.
pub(super) fn problem_name(key: &Key) -> String {
    format!("{}/{}", key.container_id, key.ifname)
}
