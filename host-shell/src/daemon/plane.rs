//! Who forwards for this node: the workers of this process, or an appliance. What differs
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
use crate::dataplane::{
    Driver, Never, ShellCounter, Started, TapPort, Underlay, WorkerEnded, Workers,
};
use crate::netlink::{Link, Netlink};
use crate::state::Attachment;
use crate::sys::netns::NetNs;
use crate::sys::tap::{Tap, TapError, TapOptions};

/// Who forwards.
pub(super) enum Plane {
    /// Workers, to which devices are handed as descriptors.
    Host(Workers),
    /// An appliance, which has the other ends of this node's devices. What stands for the
    /// workers never ends.
    Offload { _alive: oneshot::Sender<Never> },
}

/// The device of a port.
pub(super) enum Device {
    /// A TAP that was made for it: a queue for each worker, or one for all.
    Tap(Vec<Tap>),
    /// An interface whose other end the appliance has.
    Wired,
}

impl Device {
    /// Lets the device outlive this process.
    pub(super) fn keep(&self) -> Result<(), TapError> {
        match self {
            // The device's, by whichever queue.
            Device::Tap(queues) => queues.iter().try_for_each(|tap| tap.set_persist(true)),
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
        let started = Workers::start(&config.workers).map_err(start_error)?;
        let Started {
            workers,
            channels,
            ended,
        } = started;
        let core = Core::of_workers(channels, epoch).await;
        Ok((Plane::Host(workers), core.map_err(start_error)?, ended))
    }

    /// Queues that a TAP is to have.
    pub(super) fn queues(&self) -> usize {
        match self {
            Plane::Host(workers) => workers.count(),
            Plane::Offload { .. } => 1,
        }
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
                let queues = self.queues();
                let taps = pod::create_tap(ns, (&attachment.key.ifname, queues)).await;
                taps.map(Device::Tap)
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
            (Plane::Host(_), Some(link)) if ours(link) => {
                Tap::attach_queues(name, TapOptions::default(), self.queues())
            }
            (Plane::Host(_), _) => Tap::create_queues(name, TapOptions::default(), self.queues()),
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
                let name = attachment.key.ifname.clone();
                let taps = pod::attach_tap(ns, (name, self.queues())).await;
                taps.map(Device::Tap)
            }
            (Plane::Offload { .. }, Some(_)) => Ok(Device::Wired),
            (Plane::Host(_), Some(_)) => Err("it was added in offload mode".to_owned()),
            (Plane::Offload { .. }, None) => Err("it was added in host mode".to_owned()),
        }
    }

    /// Serves a device as this port, as far as that is done here.
    ///
    /// # Errors
    /// When a worker has ended or cannot wait for the device's descriptors.
    pub(super) async fn serve(&self, id: PortId, device: Device) -> io::Result<()> {
        match device {
            Device::Tap(queues) => {
                let drivers = drivers(id, queues, self.queues()).map_err(io::Error::other)?;
                self.attach(id, drivers).await
            }
            Device::Wired => Ok(()),
        }
    }

    /// Serves the underlay's sockets, those of each worker.
    ///
    /// # Errors
    /// As [`Plane::serve`].
    pub(super) async fn serve_underlay(&self, id: PortId, all: Vec<Underlay>) -> io::Result<()> {
        let drivers = all.into_iter();
        let drivers = drivers.map(|sockets| Driver::Underlay(Box::new(sockets)));
        self.attach(id, drivers.collect()).await
    }

    /// Hands a driver to each worker, if there are workers.
    ///
    /// # Errors
    /// As [`Plane::serve`].
    pub(super) async fn attach(&self, id: PortId, drivers: Vec<Driver>) -> io::Result<()> {
        if let Plane::Host(workers) = self {
            pod::close(workers.attach(id, drivers).await?).await;
        }
        Ok(())
    }

    /// Serves a port no longer.
    pub(super) async fn detach(&self, id: PortId) {
        if let Plane::Host(workers) = self
            && let Ok(drivers) = workers.detach(id).await
        {
            pod::close(drivers).await;
        }
    }

    /// The ports whose device has failed under the worker's hands, and why.
    pub(super) fn failed(&self) -> BTreeMap<PortId, String> {
        match self {
            Plane::Host(workers) => workers.failed(),
            Plane::Offload { .. } => BTreeMap::new(),
        }
    }

    /// What the drivers of this process have counted.
    pub(super) fn counters(&self) -> Vec<(ShellCounter, u64)> {
        match self {
            Plane::Host(workers) => workers.counters(),
            Plane::Offload { .. } => Vec::new(),
        }
    }

    /// The processor of each worker, where it was told to run on one.
    pub(super) fn workers(&self) -> Vec<Option<usize>> {
        match self {
            Plane::Host(workers) => (0..workers.count()).map(|n| workers.cpu(n)).collect(),
            Plane::Offload { .. } => Vec::new(),
        }
    }
}

/// A driver for each worker. A TAP that an earlier daemon made for one worker has one
/// queue only: one of them reads it, another one for each port, and all write to it.
fn drivers(id: PortId, mut queues: Vec<Tap>, workers: usize) -> Result<Vec<Driver>, TapError> {
    let reader = match queues.len() {
        len if len == workers => None,
        _ => Some(usize::from(id.0) % workers),
    };
    let Some(reader) = reader else {
        let ports = queues.into_iter().map(TapPort::new);
        return Ok(ports.map(Driver::Tap).collect());
    };
    let name = queues.first().map(|tap| tap.name().to_owned());
    tracing::info!(
        port = id.0,
        "{} was made for one worker: worker {reader} reads it until it is made anew",
        name.unwrap_or_default()
    );
    while queues.len() < workers {
        let further = queues[0].try_clone()?;
        queues.push(further);
    }
    let ports = queues.into_iter().enumerate().map(|(worker, tap)| {
        let port = match worker == reader {
            true => TapPort::new(tap),
            false => TapPort::read_elsewhere(tap),
        };
        Driver::Tap(port)
    });
    Ok(ports.collect())
}
