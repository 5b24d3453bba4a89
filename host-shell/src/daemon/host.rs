//! The host's own port: a TAP in the node's namespace, by which the node reaches
//! pods and pods reach the node.

use culvert_core::channel::Owner;
use ipnet::IpNet;

use super::{Daemon, StartError, cluster, start_error};
use crate::dataplane::{Driver, TapPort};
use crate::mac::Mac;
use crate::netlink::{NetlinkError, Route};
use crate::sys::tap::{Tap, TapError, TapOptions};

/// What marks the host's device as culvert's.
pub(super) const ALIAS: &str = "culvert: the host's way to the pods";

impl Daemon {
    /// Makes the host's device, or takes over the one that an earlier daemon left,
    /// with address and routes, and hands it to the worker.
    pub(super) async fn build_host_device(&self) -> Result<(), StartError> {
        let name = &self.config.device;
        let existing = self.netlink.find_link(name).await.map_err(start_error)?;
        let ours = existing.is_some_and(|link| link.alias.as_deref() == Some(ALIAS));
        let tap = match ours {
            true => Tap::attach(name, TapOptions::default()),
            false => Tap::create(name, TapOptions::default()),
        };
        let tap = tap.map_err(|error| match error {
            TapError::NameTaken { .. } => StartError(format!(
                "{error}; remove it, or set another host.device in the configuration"
            )),
            other => start_error(other),
        })?;
        let mac = self.configure_host_device().await.map_err(start_error)?;
        self.add_host_routes().await?;
        let port = cluster::host_port(mac, self.pod_mtu).map_err(start_error)?;
        self.core
            .apply(Owner::Cluster, &[port])
            .await
            .map_err(start_error)?;
        // Only now: a start that fails before leaves no device behind.
        tap.set_persist(true).map_err(start_error)?;
        self.worker
            .attach(cluster::HOST, Driver::Tap(TapPort::new(tap)))
            .await
            .map_err(start_error)?;
        Ok(())
    }

    async fn configure_host_device(&self) -> Result<[u8; 6], NetlinkError> {
        let name = &self.config.device;
        let address = cluster::node_address(&self.config.node);
        let mac = match address {
            std::net::IpAddr::V4(v4) => Mac::for_pod(v4),
            std::net::IpAddr::V6(v6) => culvert_core::MacAddr::vtep_for(v6.into()).into(),
        };
        self.netlink.set_alias(name, ALIAS).await?;
        self.netlink.set_mac(name, mac.0).await?;
        self.netlink.set_mtu(name, self.pod_mtu).await?;
        match self.netlink.add_address(name, IpNet::from(address)).await {
            Err(error) if !error.is_exists() => return Err(error),
            _ => {}
        }
        self.netlink.set_up(name).await?;
        Ok(mac.0)
    }

    async fn add_host_routes(&self) -> Result<(), StartError> {
        let present = self.netlink.routes(&self.config.device).await;
        let present = present.map_err(start_error)?;
        for route in self.host_routes() {
            if present.iter().any(|r| r.destination == route.destination) {
                continue;
            }
            match self.netlink.add_route(&route).await {
                Err(error) if error.is_exists() => return Err(self.route_taken(&route).await),
                added => added.map_err(start_error)?,
            }
        }
        Ok(())
    }

    /// Says who has the route that this node needs.
    async fn route_taken(&self, wanted: &Route) -> StartError {
        let mut holder = "another route".to_owned();
        for link in self.netlink.links().await.unwrap_or_default() {
            let routes = self.netlink.routes(&link.name).await.unwrap_or_default();
            let same = |route: &&Route| route.destination == wanted.destination;
            if let Some(route) = routes.iter().find(same) {
                holder = format!("the route {route}");
            }
        }
        StartError(format!(
            "{} cannot have the route {wanted}: {holder} is in the way; remove it, or change the network in {}",
            self.config.device,
            self.config.cluster_path.display()
        ))
    }

    /// To the gateway, and by it to all pods: one neighbor entry, however many pods.
    pub(super) fn host_routes(&self) -> [Route; 2] {
        let name = &self.config.device;
        let network = &self.config.cluster.network;
        let gateway = IpNet::from(network.gateway);
        let source = Some(cluster::node_address(&self.config.node));
        [
            Route {
                source,
                ..Route::on_link(gateway, name)
            },
            Route {
                source,
                onlink: true,
                ..Route::via(network.prefix.trunc(), network.gateway, name)
            },
        ]
    }

    /// Ends the daemon's work. While there are pods their devices and the host's
    /// stay, so that a new daemon finds them; without pods nothing stays.
    pub(super) async fn stop(&self) {
        match self.with_store(|store| store.list()).await {
            Ok(pods) if pods.is_empty() => {}
            Ok(pods) => return tracing::info!(pods = pods.len(), "their devices stay"),
            Err(error) => return tracing::warn!("the devices stay: {}", error.msg),
        }
        if let Ok(Some(driver)) = self.worker.detach(cluster::HOST).await {
            super::pod::close(driver).await;
        }
    }
}
