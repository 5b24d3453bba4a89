//! Who forwards for this node: a worker of this process, or an appliance. What differs
//! between the two in devices and drivers is here; everything else speaks to a [`Core`]
//! and to interfaces.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use culvert_core::PortId;
use tokio::sync::oneshot;

use super::core::Core;
use super::{StartError, host, pod, pool, start_error};
use crate::cni::CniError;
use crate::config::Config;
use crate::dataplane::{Driver, Never, ShellCounter, TapPort, Worker, WorkerEnded};
use crate::netlink::{Link, Netlink};
use crate::state::Attachment;
use crate::sys::netns::NetNs;
use crate::sys::tap::{Tap, TapError, TapOptions};

/// Who forwards.
pub(super) enum Plane {
    /// A worker, to which devices are handed as descriptors.
    Host(Worker),
    /// An appliance, which has the other ends of this node's devices. What stands for the
    /// worker never ends.
    Offload { _alive: oneshot::Sender<Never> },
}

/// The device of a port.
pub(super) enum Device {
    /// A TAP that was made for it.
    Tap(Tap),
    /// An interface whose other end the appliance has.
    Wired,
}

impl Device {
    /// Lets the device outlive this process.
    pub(super) fn keep(&self) -> Result<(), TapError> {
        match self {
            Device::Tap(tap) => tap.set_persist(true),
            Device::Wired => Ok(()),
        }
    }
}

impl Plane {
    /// Starts what forwards in this process, or gets ready to reach what does so
    /// elsewhere. Also returns what resolves when a worker ends.
    ///
    /// # Errors
    /// When there is no worker to be had, or it is of another version.
    pub(super) async fn start(
        config: &Config,
        epoch: u64,
    ) -> Result<(Plane, Core, WorkerEnded), StartError> {
        if let Some(offload) = &config.offload {
            let (alive, ended) = oneshot::channel();
            return Ok((
                Plane::Offload { _alive: alive },
                Core::of_appliance(epoch, offload.channel.to_string()),
                ended,
            ));
        }
        let (worker, channel, ended) = Worker::start().map_err(start_error)?;
        let core = Core::of_worker(channel, epoch).await.map_err(start_error)?;
        Ok((Plane::Host(worker), core, ended))
    }

    /// Gives an attachment its device, by its interface's name in the pod. `host` is the
    /// node's own namespace.
    ///
    /// # Errors
    /// What a runtime is to be told; a part of it may be done.
    pub(super) async fn bring(
        &self,
        attachment: &Attachment,
        ns: &Arc<NetNs>,
        host: &Netlink,
    ) -> Result<Device, CniError> {
        match &attachment.device {
            None => {
                let tap = pod::create_tap(ns, &attachment.key.ifname).await;
                tap.map(Device::Tap)
            }
            Some(device) => {
                pool::take(attachment, device, (ns, host)).await?;
                Ok(Device::Wired)
            }
        }
    }

    /// Makes the host's device, or takes the one that is `existing` by its name.
    ///
    /// # Errors
    /// When the name is somebody else's, or nobody's where it must be there.
    pub(super) fn host_device(
        &self,
        name: &str,
        existing: Option<Link>,
    ) -> Result<Device, StartError> {
        let ours = |link: &Link| link.alias.as_deref() == Some(host::ALIAS);
        let tap = match (self, &existing) {
            (Plane::Offload { .. }, Some(_)) => return Ok(Device::Wired),
            (Plane::Offload { .. }, None) => {
                return Err(StartError(format!(
                    "offload.host: there is no interface {name}; make it, or remove offload.host when this node needs no way to its pods"
                )));
            }
            (Plane::Host(_), Some(link)) if ours(link) => Tap::attach(name, TapOptions::default()),
            (Plane::Host(_), _) => Tap::create(name, TapOptions::default()),
        };
        tap.map(Device::Tap).map_err(|error| match error {
            TapError::NameTaken { .. } => StartError(format!(
                "{error}; remove it, or set another host.device in the configuration"
            )),
            other => start_error(other),
        })
    }

    /// Finds the device that an attachment was given by an earlier daemon.
    ///
    /// # Errors
    /// In words; above all when it was given in the other mode.
    pub(super) async fn find(&self, attachment: &Attachment, ns: NetNs) -> Result<Device, String> {
        match (self, &attachment.device) {
            (Plane::Host(_), None) => {
                let tap = pod::attach_tap(ns, attachment.key.ifname.clone()).await;
                tap.map(Device::Tap)
            }
            (Plane::Offload { .. }, Some(_)) => Ok(Device::Wired),
            (Plane::Host(_), Some(_)) => Err("it was added in offload mode".to_owned()),
            (Plane::Offload { .. }, None) => Err("it was added in host mode".to_owned()),
        }
    }

    /// Serves a device as this port, as far as that is done here.
    ///
    /// # Errors
    /// When the worker has ended or cannot wait for the device's descriptors.
    pub(super) async fn serve(&self, id: PortId, device: Device) -> io::Result<()> {
        match device {
            Device::Tap(tap) => self.attach(id, Driver::Tap(TapPort::new(tap))).await,
            Device::Wired => Ok(()),
        }
    }

    /// Hands a driver to the worker, if there is one.
    ///
    /// # Errors
    /// As [`Plane::serve`].
    pub(super) async fn attach(&self, id: PortId, driver: Driver) -> io::Result<()> {
        if let Plane::Host(worker) = self
            && let Some(before) = worker.attach(id, driver).await?
        {
            pod::close(before).await;
        }
        Ok(())
    }

    /// Serves a port no longer.
    pub(super) async fn detach(&self, id: PortId) {
        if let Plane::Host(worker) = self
            && let Ok(Some(driver)) = worker.detach(id).await
        {
            pod::close(driver).await;
        }
    }

    /// The ports whose device has failed under the worker's hands, and why.
    pub(super) fn failed(&self) -> BTreeMap<PortId, String> {
        match self {
            Plane::Host(worker) => worker.counters().failed(),
            Plane::Offload { .. } => BTreeMap::new(),
        }
    }

    /// What the drivers of this process have counted.
    pub(super) fn counters(&self) -> Vec<(ShellCounter, u64)> {
        match self {
            Plane::Host(worker) => {
                let counters = worker.counters();
                let all = ShellCounter::ALL.into_iter();
                all.map(|counter| (counter, counters.get(counter)))
                    .collect()
            }
            Plane::Offload { .. } => Vec::new(),
        }
    }
}
