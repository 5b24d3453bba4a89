//! The host's own port: a device in the node's namespace, by which the node reaches
//! pods and pods reach the node.

use std::net::IpAddr;

use ipnet::IpNet;

use super::site::Site;
use super::{Daemon, StartError, cluster, start_error};
use crate::dataplane::TapPort;
use crate::netlink::{NetlinkError, PROTOCOL_CULVERT, PROTOCOL_STATIC, Route};
use crate::sysctl;

/// What marks the host's device as culvert's.
pub(super) const ALIAS: &str = "culvert: the host's way to the pods";

impl Daemon {
    /// Makes the host's device, or takes over the one that an earlier daemon left,
    /// with address and routes, and hands it to the worker.
    pub(super) async fn build_host_device(&self) -> Result<(), StartError> {
        let site = self.site();
        let (Some(name), Some(port)) = (&site.config.device, site.host_port()) else {
            return Ok(());
        };
        let existing = self.netlink.find_link(name).await.map_err(start_error)?;
        let device = self.plane.host_device(name, existing)?;
        self.configure_host_device(&site, name).await?;
        self.add_host_routes(&site, name).await?;
        // Only now: a start that fails before leaves no device behind.
        device.keep().map_err(start_error)?;
        self.plane.serve(port, device).await.map_err(start_error)
    }

    async fn configure_host_device(&self, site: &Site, name: &str) -> Result<(), StartError> {
        let addresses: Vec<IpAddr> = site.config.node.addresses().collect();
        let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
        if has_v6 {
            sysctl::prepare_ipv6(name).map_err(|error| {
                StartError(format!(
                    "{name} cannot have the node's IPv6 address: {error}; let the kernel have IPv6, or give node {} IPv4 pods only",
                    site.config.node.name
                ))
            })?;
        }
        let configured = self.give_host_addresses((site, name), &addresses).await;
        configured.map_err(start_error)
    }

    async fn give_host_addresses(
        &self,
        (site, name): (&Site, &str),
        all: &[IpAddr],
    ) -> Result<(), NetlinkError> {
        let mac = cluster::host_mac(&site.config);
        self.netlink.set_alias(name, ALIAS).await?;
        self.netlink.set_mac(name, mac.0).await?;
        self.netlink.set_mtu(name, site.pod_mtu).await?;
        if site.config.offload.is_none() {
            self.netlink
                .set_gso_max_size(name, TapPort::LONGEST)
                .await?;
        }
        self.delete_former_addresses(name, all).await?;
        if self.plane.queues() > 1 {
            self.netlink.set_no_queue(name).await?;
        }
        self.netlink.set_up(name).await?;
        if all.iter().any(IpAddr::is_ipv6) {
            self.netlink.add_link_local(name, mac).await?;
        }
        for address in all {
            match self.netlink.add_address(name, IpNet::from(*address)).await {
                Err(error) if !error.is_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes the node addresses that the device had by an earlier configuration: the
    /// node would take for its own what is another's now, and send from it.
    async fn delete_former_addresses(
        &self,
        name: &str,
        now: &[IpAddr],
    ) -> Result<(), NetlinkError> {
        for entry in self.netlink.addresses(Some(name)).await? {
            let prefix = IpNet::from(entry.address);
            let by_culvert = entry.prefix_length == prefix.prefix_len();
            if by_culvert && !now.contains(&entry.address) {
                self.netlink.delete_address(name, prefix).await?;
            }
        }
        Ok(())
    }

    async fn add_host_routes(&self, site: &Site, name: &str) -> Result<(), StartError> {
        let present = self.netlink.routes(name).await;
        let mut present = present.map_err(start_error)?;
        // What others made has no mark of ours. Before there was a number of its own,
        // culvert's routes were static ones with a source.
        present.retain(|route| {
            let formerly = route.protocol == PROTOCOL_STATIC && route.source.is_some();
            route.protocol == PROTOCOL_CULVERT || formerly
        });
        self.bring_routes(&present, &site.host_routes()).await
    }

    /// Makes the wanted routes of those that culvert made before: deletes what is no
    /// longer wanted and adds what is missing.
    pub(super) async fn bring_routes(
        &self,
        present: &[Route],
        wanted: &[Route],
    ) -> Result<(), StartError> {
        for route in present {
            if !wanted.iter().any(|wanted| is_same(route, wanted)) {
                match self.netlink.delete_route(route).await {
                    Err(error) if !error.is_not_found() => return Err(start_error(error)),
                    _ => {}
                }
            }
        }
        for route in wanted {
            if !present.iter().any(|present| is_same(present, route)) {
                self.bring_route(route).await?;
            }
        }
        Ok(())
    }

    /// Adds a route that is needed and not there.
    pub(super) async fn bring_route(&self, route: &Route) -> Result<(), StartError> {
        match self.netlink.add_route(route).await {
            Err(error) if error.is_exists() => Err(self.route_taken(route).await),
            Err(error) if error.is_unreachable() => Err(StartError(format!(
                "{error}: the next hop is not on the link of {}; set encap = \"cross-subnet\" in {}, so that nodes behind a router are reached through a tunnel",
                route.link,
                self.site().config.cluster_path.display()
            ))),
            added => added.map_err(start_error),
        }
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
            wanted.link,
            self.site().config.cluster_path.display()
        ))
    }
}

impl Site {
    /// To the gateway, and by it to all pods: one neighbor entry, however many pods. Of
    /// an IP version that this node has no block of there are no routes.
    pub(super) fn host_routes(&self) -> Vec<Route> {
        let network = &self.config.cluster.network;
        let mut routes = Vec::new();
        let Some(name) = &self.config.device else {
            return routes;
        };
        for own in self.config.node.addresses() {
            let gateway = network.gateway_for(own);
            let ours = |route| Route {
                source: Some(own),
                protocol: PROTOCOL_CULVERT,
                ..route
            };
            routes.push(ours(Route::on_link(IpNet::from(gateway), name)));
            let prefixes = network.prefixes.iter();
            for prefix in prefixes.filter(|p| p.addr().is_ipv4() == own.is_ipv4()) {
                routes.push(Route {
                    onlink: true,
                    ..ours(Route::via(*prefix, gateway, name))
                });
            }
        }
        routes
    }
}

impl Daemon {
    /// Ends the daemon's work. While there are pods their devices and the host's
    /// stay, so that a new daemon finds them; without pods nothing stays.
    pub(super) async fn stop(&self) {
        self.remove_wire().await;
        match self.with_store(|store| store.list()).await {
            Ok(pods) if pods.is_empty() => {}
            Ok(pods) => return tracing::info!(pods = pods.len(), "their devices stay"),
            Err(error) => return tracing::warn!("the devices stay: {}", error.msg),
        }
        self.remove_direct().await;
        self.plane.detach(cluster::HOST).await;
        if let Err(error) = self.leave_host_device().await {
            tracing::warn!("the host's device stays as it is: {error}");
        }
    }

    /// Takes what culvert gave to a host's device that it did not make.
    async fn leave_host_device(&self) -> Result<(), NetlinkError> {
        let site = self.site();
        let (Some(name), Some(_)) = (&site.config.device, &site.config.offload) else {
            return Ok(());
        };
        // It loses its routes by that.
        self.netlink.set_down(name).await?;
        self.delete_former_addresses(name, &[]).await?;
        self.netlink.set_alias(name, "").await
    }
}

/// Whether a route that the kernel shows leads where the other one does.
pub(super) fn is_same(present: &Route, wanted: &Route) -> bool {
    present.destination == wanted.destination
        && present.gateway == wanted.gateway
        && present.source == wanted.source
}
