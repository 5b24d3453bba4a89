//! A pod's device, which is the pod's own interface: a TAP, or a device of the pool.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use culvert_core::PortId;
use culvert_core::channel::{Operation, Owner, Proxy};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::site::Site;
use super::{CoreError, Daemon, cluster, pool};
use crate::cni::{CniError, code};
use crate::dataplane::{Driver, TapPort};
use crate::netlink::{Link, Netlink, NetlinkError, Route};
use crate::state::{Attachment, NetnsId};
use crate::sys::netns::{NetNs, NetNsError, NetNsId};
use crate::sys::tap::{Tap, TapError, TapOffloads, TapOptions};
use crate::sysctl;

/// What marks a pod's device as culvert's and as this attachment's.
fn alias(attachment: &Attachment) -> String {
    let container = &attachment.key.container_id;
    let mut text = match &attachment.device {
        None => format!("culvert: {container}"),
        Some(device) => pool::alias(device, container),
    };
    text.truncate(text.floor_char_boundary(pool::NOTE_LEN));
    text
}

impl Daemon {
    /// Builds the device, hands it to the worker and programs the core; the answer
    /// comes when the core forwards by it. What was built when it fails is for
    /// [`Daemon::dismantle`].
    pub(super) async fn build(
        &self,
        attachment: &Attachment,
        (ns, site): (&Arc<NetNs>, &Site),
    ) -> Result<u32, CniError> {
        let name = &attachment.key.ifname;
        let device = self.plane.bring(attachment, ns, &self.netlink).await?;
        if attachment.addresses.iter().any(IpAddr::is_ipv6) {
            prepare_ipv6(ns, name).await?;
        }
        let netlink = Netlink::connect(Some(ns)).map_err(io_error)?;
        let index = self
            .configure(&netlink, attachment, site)
            .await
            .map_err(|error| configure_error(&error))?;
        device.keep().map_err(|e| tap_error(&e, name, ns))?;
        let id = PortId(attachment.port);
        self.plane.serve(id, device).await.map_err(io_error)?;
        self.program(attachment, site).await?;
        Ok(index)
    }

    /// Tells the core of a pod's port.
    pub(super) async fn program(
        &self,
        attachment: &Attachment,
        site: &Site,
    ) -> Result<(), CniError> {
        let port = cluster::pod_port(attachment, site)
            .map_err(|error| CniError::new(code::INVALID_CONFIG, error.to_string()))?;
        let told = self
            .core
            .apply(Owner::Attachment, &[Operation::UpsertPort(port)])
            .await;
        told.map_err(core_error)
    }

    async fn configure(
        &self,
        netlink: &Netlink,
        attachment: &Attachment,
        site: &Site,
    ) -> Result<u32, NetlinkError> {
        let name = attachment.key.ifname.as_str();
        netlink.set_alias(name, &alias(attachment)).await?;
        netlink.set_mac(name, attachment.mac.0).await?;
        netlink.set_mtu(name, site.mtu_of(attachment)).await?;
        if attachment.device.is_none() {
            netlink.set_gso_max_size(name, TapPort::LONGEST).await?;
        }
        if self.plane.queues() > 1 {
            netlink.set_no_queue(name).await?;
        }
        netlink.set_up(name).await?;
        if attachment.addresses.iter().any(IpAddr::is_ipv6) {
            netlink.add_link_local(name, attachment.mac).await?;
        }
        for address in site.pod_addresses(attachment) {
            netlink.add_address(name, address).await?;
        }
        for route in site.pod_routes(attachment) {
            netlink.add_route(&route).await?;
        }
        Ok(netlink.link(name).await?.index)
    }
}

impl Site {
    /// A pod's addresses as its interface has them: alone on their link, or with the
    /// whole network on it.
    pub(super) fn pod_addresses(&self, attachment: &Attachment) -> impl Iterator<Item = IpNet> {
        let network = &self.config.cluster.network;
        attachment.addresses.iter().map(move |address| {
            let alone = IpNet::from(*address);
            match (network.proxy, network.prefix_of(*address)) {
                (Proxy::Network, Some(prefix)) => {
                    IpNet::new(*address, prefix.prefix_len()).unwrap_or(alone)
                }
                _ => alone,
            }
        })
    }

    /// To the gateway, and by it to everything, for each IP version that the pod has.
    pub(super) fn pod_routes(&self, attachment: &Attachment) -> Vec<Route> {
        let name = &attachment.key.ifname;
        let mut routes = Vec::new();
        for address in &attachment.addresses {
            let gateway = self.config.cluster.network.gateway_for(*address);
            let everything: IpNet = match gateway {
                IpAddr::V4(_) => Ipv4Net::default().into(),
                IpAddr::V6(_) => Ipv6Net::default().into(),
            };
            routes.push(Route::on_link(IpNet::from(gateway), name));
            routes.push(Route::via(everything, gateway, name));
        }
        routes
    }
}

impl Daemon {
    /// Takes down whatever there is of an attachment: table entries, worker port,
    /// device. Nothing being there is fine. The caller holds [`Core::change`] until the
    /// attachment is out of the database.
    ///
    /// # Errors
    /// When the core refuses, or is gone for good; the device is taken down all the same.
    ///
    /// [`Core::change`]: super::core::Core::change
    pub(super) async fn dismantle(&self, attachment: &Attachment) -> Result<(), CniError> {
        let id = PortId(attachment.port);
        let removed = self.core.remove_port(id).await;
        self.plane.detach(id).await;
        let taken = match &attachment.device {
            // What an earlier daemon left, or one of whose start-up this is a part, has
            // no descriptor here.
            None => delete_by_name(attachment).await,
            Some(device) => {
                pool::give_back(attachment, device, (&self.host_ns, &self.netlink)).await
            }
        };
        if let Err(error) = taken {
            tracing::warn!(
                container = attachment.key.container_id,
                ifname = attachment.key.ifname,
                device = attachment.device,
                "the pod's device was not taken down: {error}"
            );
        }
        removed.map_err(core_error)
    }
}

/// Closes a port's descriptors where that may take its time. A TAP ceases to exist with
/// its last one.
pub(super) async fn close(drivers: Vec<Driver>) {
    if drivers.is_empty() {
        return;
    }
    let closed = tokio::task::spawn_blocking(move || {
        if let Some(Driver::Tap(port)) = drivers.first()
            && let Err(error) = port.tap().set_persist(false)
        {
            tracing::debug!("a TAP stays after it was closed: {error}");
        }
        drop(drivers);
    });
    // It ends early only in a panic, and then the descriptors are closed too.
    let _ = closed.await;
}

/// Deletes the attachment's device in its namespace, if both are still there and
/// the device is marked as its own.
async fn delete_by_name(attachment: &Attachment) -> Result<(), String> {
    let Some(ns) = namespace_of(attachment).map_err(|e| e.to_string())? else {
        return Ok(());
    };
    let netlink = Netlink::connect(Some(&ns)).map_err(|e| e.to_string())?;
    let name = &attachment.key.ifname;
    let link = netlink.find_link(name).await.map_err(|e| e.to_string())?;
    if !link.is_some_and(|link| is_own(&link, attachment)) {
        return Ok(());
    }
    match netlink.delete_link(name).await {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Whether an interface is marked as the attachment's own.
pub(super) fn is_own(link: &Link, attachment: &Attachment) -> bool {
    link.alias.as_deref() == Some(alias(attachment).as_str())
}

/// The attachment's namespace; `None` when it is gone, or another is in its place.
///
/// # Errors
/// When that cannot be found out, as for want of descriptors: the pod may be alive.
pub(super) fn namespace_of(attachment: &Attachment) -> Result<Option<NetNs>, NetNsError> {
    match NetNs::open(Path::new(&attachment.netns)) {
        Ok(ns) => Ok((netns_id(ns.id()) == attachment.netns_id).then_some(ns)),
        Err(NetNsError::NotFound { .. } | NetNsError::NotANetNs { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A namespace's identity as the database keeps it.
pub(super) fn netns_id(id: NetNsId) -> NetnsId {
    NetnsId {
        dev: id.dev,
        ino: id.ino,
    }
}

/// Pods send TCP and UDP super-frames: the kernels of this node's pods take them whole, and
/// the underlay's driver cuts them.
const TAP: TapOptions = TapOptions {
    offloads: TapOffloads::ALL,
};

/// Opens the pod's namespace, which must not be the node's own.
pub(super) fn open_namespace(host: &NetNs, path: &str) -> Result<Arc<NetNs>, CniError> {
    let ns = NetNs::open(Path::new(path)).map_err(|error| match error {
        NetNsError::NotFound { .. } | NetNsError::NotANetNs { .. } => {
            CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS: {error}"))
        }
        other => CniError::new(code::IO, other.to_string()),
    })?;
    if ns == *host {
        let message = format!("CNI_NETNS: {path} is the node's own network namespace");
        return Err(CniError::new(code::NETNS_IS_OWN, message));
    }
    Ok(Arc::new(ns))
}

/// Makes the pod's interface with so many queues.
pub(super) async fn create_tap(
    ns: &Arc<NetNs>,
    (name, queues): (&str, usize),
) -> Result<Vec<Tap>, CniError> {
    let (inside, wanted) = (Arc::clone(ns), name.to_owned());
    let create = move || inside.run(|| Tap::create_queues(&wanted, TAP, queues));
    let created = tokio::task::spawn_blocking(create);
    let created = created.await.map_err(io_error)?.map_err(io_error)?;
    created.map_err(|error| tap_error(&error, name, ns))
}

/// Makes the pod's interface take IPv6 addresses, whatever its namespace says.
async fn prepare_ipv6(ns: &Arc<NetNs>, name: &str) -> Result<(), CniError> {
    let (inside, link) = (Arc::clone(ns), name.to_owned());
    let prepared = tokio::task::spawn_blocking(move || inside.run(|| sysctl::prepare_ipv6(&link)));
    let prepared = prepared.await.map_err(io_error)?.map_err(io_error)?;
    prepared.map_err(|error| {
        io_error(error).with_details(
            "the pod cannot have its IPv6 address; give this node's `pods` IPv4 only, or let the kernel have IPv6",
        )
    })
}

/// Attaches to the device that an earlier daemon left in a pod, to so many queues if it
/// has several.
pub(super) async fn attach_tap(
    ns: NetNs,
    (name, queues): (String, usize),
) -> Result<Vec<Tap>, String> {
    tokio::task::spawn_blocking(move || ns.run(|| Tap::attach_queues(&name, TAP, queues)))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}

fn tap_error(error: &TapError, name: &str, ns: &NetNs) -> CniError {
    match error {
        TapError::NameTaken { holder, .. } => CniError::new(
            code::INVALID_ENVIRONMENT,
            format!(
                "CNI_IFNAME: {} has an interface {name} already ({holder})",
                ns.path().display()
            ),
        ),
        other => io_error(other),
    }
}

fn configure_error(error: &NetlinkError) -> CniError {
    let described = io_error(error);
    // The device is new, so what exists already is a route of another interface.
    match error.is_exists() {
        true => described.with_details(
            "the pod has this route by another interface already; culvert gives a pod one interface, with its default route",
        ),
        false => described,
    }
}

pub(super) fn io_error(error: impl std::fmt::Display) -> CniError {
    CniError::new(code::IO, error.to_string())
}

pub(super) fn core_error(error: CoreError) -> CniError {
    let code = match &error {
        CoreError::Table { .. } => code::INTERNAL,
        _ => code::TRY_AGAIN,
    };
    let next = match &error {
        CoreError::Lost { .. } | CoreError::Unanswered { .. } | CoreError::Restarted => {
            "culvertd connects again within a second if the appliance is there, and the runtime will try again"
        }
        _ => "",
    };
    CniError::new(code, error.to_string()).with_details(next)
}
