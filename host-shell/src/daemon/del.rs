//! CNI DEL and GC.

use std::collections::HashSet;

use tokio::time::timeout;

use super::pod::io_error;
use super::{Daemon, add};
use crate::cni::{CniError, Environment, NetConf, code};
use crate::spool;
use crate::state::Key;

impl Daemon {
    /// Carries out a DEL. What is not there, or not any more, is deleted with success.
    pub(super) async fn del(&self, environment: &Environment) -> Result<(), CniError> {
        let deleted = self.delete(add::key(environment)).await;
        let is_offload = self.site().config.offload.is_some();
        deleted.map_err(|error| answer_to_del(error, is_offload))
    }

    pub(super) async fn delete(&self, key: Key) -> Result<(), CniError> {
        let _lock = self.locks.lock(&key).await;
        self.delete_locked(&key).await
    }

    /// Carries out the deletions of this attachment that wait in the spool, before an
    /// ADD: one that was spooled while the daemon ran, but did not answer, would be
    /// carried out at the next start, and take down what came after it. The caller
    /// holds the attachment's lock.
    pub(super) async fn carry_out_spooled(&self, key: &Key) -> Result<(), CniError> {
        let dir = spool::spool_dir(&self.site().config.state_dir);
        let entries = tokio::task::spawn_blocking(move || spool::read(&dir)).await;
        for entry in entries.map_err(io_error)?.map_err(io_error)? {
            let request = entry.request.as_ref();
            if request.is_ok_and(|request| add::key(&request.environment) == *key) {
                self.delete_locked(key).await?;
                spool::remove(&entry.path).map_err(io_error)?;
            }
        }
        Ok(())
    }

    /// Carries out what plugins have left in the spool while an appliance was told its
    /// tables.
    pub(super) async fn carry_out_postponed(&self) {
        let dir = spool::spool_dir(&self.site().config.state_dir);
        let done = async {
            let entries = tokio::task::spawn_blocking(move || spool::read(&dir)).await;
            let entries = entries.map_err(io_error)?.map_err(io_error)?;
            for request in entries.into_iter().filter_map(|entry| entry.request.ok()) {
                let key = add::key(&request.environment);
                // Under the lock it is read again: an ADD may have carried it out.
                let _lock = self.locks.lock(&key).await;
                self.carry_out_spooled(&key).await?;
            }
            Ok(())
        };
        let done: Result<(), CniError> = done.await;
        self.set_problem("spool", done.err().map(|error| error.msg));
    }

    async fn delete_locked(&self, key: &Key) -> Result<(), CniError> {
        let wanted = key.clone();
        let found = self.with_store(move |store| store.get(&wanted)).await?;
        let Some(attachment) = found else {
            return Ok(());
        };
        // An appliance that is not reached learns of it before it is told of any other
        // pod: so the lease can go now, and nobody has its address until then.
        // While one is told its tables the deletion waits, in the plugin's spool if need be.
        let turn = timeout(add::TURN, self.core.change()).await;
        let _change = turn.map_err(add::no_turn)?;
        self.dismantle(&attachment).await?;
        let wanted = key.clone();
        self.with_store(move |store| store.release(&wanted)).await?;
        self.set_problem(&problem_name(key), None);
        self.set_problem(&problem_name_in_appliance(key), None);
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

/// What a DEL is answered with. The plugin leaves in the spool what is to be tried again,
/// and succeeds; in host mode nobody looks there before the next start, and the runtime is
/// to try again itself.
fn answer_to_del(error: CniError, is_offload: bool) -> CniError {
    match error.code {
        code::TRY_AGAIN if !is_offload => CniError {
            code: code::IO,
            ..error
        },
        _ => error,
    }
}

/// As [`problem_name`], for what an appliance did not take.
pub(super) fn problem_name_in_appliance(key: &Key) -> String {
    format!("{} in the appliance", problem_name(key))
}

/// The name of an attachment's entry among the daemon's problems.
pub(super) fn problem_name(key: &Key) -> String {
    format!("{}/{}", key.container_id, key.ifname)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_spools_only_what_somebody_will_read() {
        let answer = |code, is_offload| answer_to_del(CniError::new(code, "why"), is_offload);
        assert_eq!(answer(code::TRY_AGAIN, true).code, code::TRY_AGAIN);
        let told = answer(code::TRY_AGAIN, false);
        assert_eq!((told.code, &told.msg[..]), (code::IO, "why"));
        assert_eq!(answer(code::INTERNAL, false).code, code::INTERNAL);
    }
}
