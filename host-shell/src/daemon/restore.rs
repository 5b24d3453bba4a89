//! Start-up after a stop or a crash: database, kernel and core come to the same
//! picture.

use culvert_core::PortId;
use culvert_core::channel::{Operation, Owner};

use super::del::problem_name;
use super::{Daemon, StartError, cluster, pod, start_error};
use crate::dataplane::TapPort;
use crate::netlink::Netlink;
use crate::state::{Attachment, Phase};

impl Daemon {
    /// Finds the pods' devices again; what an unfinished ADD left is undone, and
    /// attachments whose namespace is gone are forgotten.
    pub(super) async fn restore(&self) -> Result<(), StartError> {
        let all = self.with_store(|store| store.list()).await;
        let all = all.map_err(|error| StartError(error.msg))?;
        let mut restored = 0;
        for attachment in &all {
            let unfinished = attachment.phase == Phase::Intent;
            if unfinished || matches!(pod::namespace_of(attachment), Ok(None)) {
                self.forget(attachment).await?;
                continue;
            }
            let name = problem_name(&attachment.key);
            match self.restore_one(attachment).await {
                Ok(()) => restored += 1,
                // The lease stays: the pod may still use its address.
                Err(why) => self.set_problem(
                    &name,
                    Some(format!(
                        "container {} is cut off: {why}; delete and add it again",
                        attachment.key.container_id
                    )),
                ),
            }
        }
        if !all.is_empty() {
            tracing::info!(restored, of = all.len(), "pods found again");
        }
        Ok(())
    }

    async fn restore_one(&self, attachment: &Attachment) -> Result<(), String> {
        let ns = pod::namespace_of(attachment).map_err(|e| e.to_string())?;
        let ns = ns.ok_or("its namespace is gone")?;
        let name = &attachment.key.ifname;
        let netlink = Netlink::connect(Some(&ns)).map_err(|e| e.to_string())?;
        let link = netlink.link(name).await.map_err(|e| e.to_string())?;
        if !pod::is_own(&link, attachment) {
            return Err(format!("its interface {name} is not the one that ADD made"));
        }
        if attachment.device.is_none() {
            // An earlier daemon may not have known of the limit.
            let limited = netlink.set_gso_max_size(name, TapPort::LONGEST).await;
            limited.map_err(|e| e.to_string())?;
        }
        let device = self.plane.find(attachment, ns).await?;
        let served = self.plane.serve(PortId(attachment.port), device).await;
        served.map_err(|error| error.to_string())?;
        let port = cluster::pod_port(attachment, &self.site()).map_err(|e| e.to_string())?;
        let port = [Operation::UpsertPort(port)];
        let told = self.core.apply(Owner::Attachment, &port).await;
        // An appliance is told of all its pods together, when it is reached.
        let told = self.core.or_later(told);
        told.map_err(|error| error.to_string())
    }

    async fn forget(&self, attachment: &Attachment) -> Result<(), StartError> {
        let key = attachment.key.clone();
        tracing::info!(
            container = key.container_id,
            ifname = key.ifname,
            "forgetting an attachment that is unfinished or whose namespace is gone"
        );
        let _change = self.core.change().await;
        self.dismantle(attachment)
            .await
            .map_err(|error| start_error(error.msg))?;
        self.with_store(move |store| store.release(&key))
            .await
            .map_err(|error| start_error(error.msg))?;
        Ok(())
    }
}
