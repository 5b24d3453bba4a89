//! CNI ADD: validate → record intent with the lease → device → core → commit → answer.
//!
//! An error undoes the steps in reverse. Nothing is announced by gratuitous ARP or
//! unsolicited advertisements: pods and host know the gateway's MAC address only, so
//! no neighbor can hold an old one of the pod's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::Daemon;
use super::pod::{core_error, netns_id, open_namespace};
use super::site::Site;
use crate::cni::{CniError, CniResult, Environment, Interface, IpConfig, NetConf, Route, code};
use crate::state::{Attachment, HostFacts, Key, Reservation};

/// How long an ADD or a DEL waits for an appliance that is being told its tables. Together with
/// an appliance that falls silent after that it stays below five seconds.
pub(super) const TURN: Duration = Duration::from_secs(1);

impl Daemon {
    /// Carries out an ADD.
    pub(super) async fn add(
        &self,
        environment: &Environment,
        conf: &NetConf,
    ) -> Result<CniResult, CniError> {
        self.check_directory(conf)?;
        let key = key(environment);
        let _lock = self.locks.lock(&key).await;
        self.carry_out_spooled(&key).await?;

        let wanted = conf.wanted(environment)?;
        let path = environment.netns().ok_or_else(|| {
            CniError::new(
                code::INVALID_ENVIRONMENT,
                "CNI_NETNS is missing; ADD needs it",
            )
        })?;
        let ns = open_namespace(&self.host_ns, path)?;
        let (site, _) = self.look_at_underlay().await.map_err(no_mtu)?;
        let _change = timeout(TURN, self.core.change()).await.map_err(no_turn)?;
        self.core.ready().map_err(core_error)?;

        let reservation = Reservation {
            netns: path.to_owned(),
            netns_id: netns_id(ns.id()),
            addresses: wanted.addresses,
            mac: wanted.mac,
            configuration: conf.name.clone(),
            devices: self.devices().await?,
        };
        let reserve_key = key.clone();
        let attachment = self
            .with_store(move |store| store.reserve(&reserve_key, &reservation))
            .await?;

        let built = self.build(&attachment, (&ns, &site)).await;
        let committed = match built {
            Ok(ifindex) => {
                let facts = HostFacts {
                    ifindex,
                    mtu: site.pod_mtu,
                };
                let key = key.clone();
                self.with_store(move |store| store.commit(&key, facts))
                    .await
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(attachment) => {
                tracing::info!(
                    container = key.container_id,
                    ifname = key.ifname,
                    address = ?attachment.addresses,
                    "attached"
                );
                Ok(site.result(&attachment))
            }
            Err(error) => Err(self.undo(&attachment, error).await),
        }
    }

    /// Refuses a configuration with another state directory: the plugin would leave
    /// its deletions where no daemon looks.
    fn check_directory(&self, conf: &NetConf) -> Result<(), CniError> {
        let site = self.site();
        let (ours, theirs) = (&site.config.state_dir, &conf.state_dir);
        let real = |path: &Path| fs::canonicalize(path).ok();
        if ours == theirs || real(ours).is_some_and(|ours| real(theirs) == Some(ours)) {
            return Ok(());
        }
        let message = format!(
            "key \"stateDir\": the daemon's state_dir is {}, and not {}",
            ours.display(),
            theirs.display()
        );
        let details = "set runDir and stateDir to the values of the daemon's culvert.toml";
        Err(CniError::new(code::INVALID_CONFIG, message).with_details(details))
    }

    /// Undoes an ADD that failed, and returns the error, with what could not be
    /// undone in its details.
    async fn undo(&self, attachment: &Attachment, error: CniError) -> CniError {
        let key = attachment.key.clone();
        let dismantled = self.dismantle(attachment).await;
        // The lease goes last, so that nobody gets an address that is still in use.
        let released = match dismantled {
            Ok(()) => self
                .with_store(move |store| store.release(&key))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        match released {
            Ok(()) => error,
            Err(more) => {
                let details = format!("undoing it failed too: {}; DEL will retry", more.msg);
                error.with_details(details)
            }
        }
    }
}

impl Site {
    /// The result of an ADD, in the newest form.
    fn result(&self, attachment: &Attachment) -> CniResult {
        let network = &self.config.cluster.network;
        let routes = self.pod_routes(attachment);
        CniResult {
            interfaces: vec![Interface {
                name: attachment.key.ifname.clone(),
                mac: attachment.mac.to_string(),
                mtu: Some(self.mtu_of(attachment)),
                sandbox: Some(attachment.netns.clone()),
                ..Interface::default()
            }],
            ips: self
                .pod_addresses(attachment)
                .map(|address| IpConfig {
                    address,
                    gateway: Some(network.gateway_for(address.addr())),
                    interface: Some(0),
                })
                .collect(),
            routes: routes
                .iter()
                .filter(|route| route.gateway.is_some())
                .map(|route| Route {
                    dst: route.destination,
                    gw: route.gateway,
                    mtu: None,
                    advmss: None,
                    priority: None,
                    table: None,
                    scope: None,
                })
                .collect(),
            ..CniResult::default()
        }
    }
}

/// The pod's MTU is the underlay's less what tunnels take, and is never guessed.
fn no_mtu(why: String) -> CniError {
    let message = format!("the MTU of a new pod cannot be told: {why}");
    let details = "it follows from the MTU of the underlay; try again when that is back";
    CniError::new(code::TRY_AGAIN, message).with_details(details)
}

pub(super) fn no_turn(_: Elapsed) -> CniError {
    let message = "the appliance has restarted or was not reached, and is being told its tables";
    CniError::new(code::TRY_AGAIN, message)
}

/// The attachment that a call is about.
pub(super) fn key(environment: &Environment) -> Key {
    Key {
        container_id: environment.container_id().to_owned(),
        ifname: environment.ifname().to_owned(),
    }
}
