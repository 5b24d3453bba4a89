//! The host's own port: a TAP in the node's namespace, by which the node reaches
//! pods and pods reach the node.

use std::net::IpAddr;

use culvert_core::channel::Owner;
use ipnet::IpNet;

use super::{Daemon, StartError, cluster, start_error};
use crate::dataplane::{Driver, TapPort};
use crate::mac::Mac;
use crate::netlink::{NetlinkError, PROTOCOL_STATIC, Route};
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
            IpAddr::V4(v4) => Mac::for_pod(v4),
            IpAddr::V6(v6) => culvert_core::MacAddr::vtep_for(v6.into()).into(),
        };
        self.netlink.set_alias(name, ALIAS).await?;
        self.netlink.set_mac(name, mac.0).await?;
        self.netlink.set_mtu(name, self.pod_mtu).await?;
        self.delete_former_addresses(address).await?;
        match self.netlink.add_address(name, IpNet::from(address)).await {
            Err(error) if !error.is_exists() => return Err(error),
            _ => {}
        }
        self.netlink.set_up(name).await?;
        Ok(mac.0)
    }

    /// Deletes the node addresses that the device had by an earlier configuration: the
    /// node would take for its own what is another's now, and send from it.
    async fn delete_former_addresses(&self, now: IpAddr) -> Result<(), NetlinkError> {
        let name = &self.config.device;
        for entry in self.netlink.addresses(Some(name)).await? {
            let prefix = IpNet::from(entry.address);
            let by_culvert = entry.address.is_ipv4() && entry.prefix_length == prefix.prefix_len();
            if by_culvert && entry.address != now {
                self.netlink.delete_address(name, prefix).await?;
            }
        }
        Ok(())
    }

    async fn add_host_routes(&self) -> Result<(), StartError> {
        let present = self.netlink.routes(&self.config.device).await;
        let present = present.map_err(start_error)?;
        let wanted = self.host_routes();
        for route in &present {
            // Those of an earlier configuration; what others made has no mark of ours.
            let by_culvert = route.protocol == PROTOCOL_STATIC && route.source.is_some();
            if by_culvert && !wanted.iter().any(|wanted| is_same(route, wanted)) {
                let deleted = self.netlink.delete_route(route).await;
                deleted.map_err(start_error)?;
            }
        }
        for route in wanted {
            if present.iter().any(|present| is_same(present, &route)) {
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

/// Whether a route that the kernel shows leads where the other one does.
pub(super) fn is_same(present: &Route, wanted: &Route) -> bool {
    present.destination == wanted.destination
        && present.gateway == wanted.gateway
        && present.source == wanted.source
}
