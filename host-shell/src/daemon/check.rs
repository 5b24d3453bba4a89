//! CNI CHECK and STATUS: does the world look as ADD left it?

use std::net::IpAddr;

use culvert_core::PortId;
use culvert_core::channel::{PortKind, Read};

use super::pod::core_error;
use super::{Daemon, add, cluster, host, pod};
use crate::cni::{CniError, CniResult, Environment, NetConf, code};
use crate::netlink::{Netlink, NetlinkError, PROTOCOL_CULVERT, Route};
use crate::state::{Attachment, Phase};
use crate::sys::netns::NetNs;

impl Daemon {
    /// Carries out a CHECK: the runtime's result, the lease, the device and the
    /// core's own tables must agree.
    pub(super) async fn check(
        &self,
        environment: &Environment,
        conf: &NetConf,
    ) -> Result<(), CniError> {
        let key = add::key(environment);
        let _lock = self.locks.lock(&key).await;
        let previous = conf.prev_result()?.ok_or_else(|| {
            CniError::new(
                code::INVALID_CONFIG,
                "CHECK needs prevResult, and it is missing",
            )
        })?;
        let wanted = key.clone();
        let attachment = self.with_store(move |store| store.get(&wanted)).await?;
        let Some(attachment) = attachment.filter(|a| a.phase == Phase::Committed) else {
            return Err(CniError::new(
                code::UNKNOWN_CONTAINER,
                format!(
                    "container {} has no attachment {}",
                    key.container_id, key.ifname
                ),
            ));
        };
        let mut wrong = compare_result(&attachment, &previous);
        let given = environment.netns().map(|path| NetNs::open(path.as_ref()));
        match (
            given,
            pod::namespace_of(&attachment).map_err(pod::io_error)?,
        ) {
            (Some(Err(error)), _) => wrong.push(error.to_string()),
            (Some(Ok(given)), Some(ns)) if given != ns => {
                wrong.push("CNI_NETNS is not the namespace that ADD was given".to_owned());
            }
            (_, None) => wrong.push(format!("the namespace {} is gone", attachment.netns)),
            (_, Some(ns)) => {
                let seen = self.compare_device(&ns, &attachment).await;
                wrong.extend(seen.map_err(pod::io_error)?);
            }
        }
        wrong.extend(self.compare_core(&attachment).await?);
        if wrong.is_empty() {
            return Ok(());
        }
        let message = format!("interface {} is not as ADD left it", key.ifname);
        Err(CniError::new(code::CHECK_FAILED, message).with_details(wrong.join("; ")))
    }

    async fn compare_device(
        &self,
        ns: &NetNs,
        attachment: &Attachment,
    ) -> Result<Vec<String>, NetlinkError> {
        let netlink = Netlink::connect(Some(ns))?;
        let name = attachment.key.ifname.as_str();
        let Some(link) = netlink.find_link(name).await? else {
            return Ok(vec![format!("there is no interface {name}")]);
        };
        let site = self.site();
        let mtu = site.mtu_of(attachment);
        let mut wrong = Vec::new();
        if !pod::is_own(&link, attachment) {
            wrong.push(format!("{name} is another interface than ADD made"));
        }
        if link.mac != Some(attachment.mac.0) {
            wrong.push(format!("its MAC address is not {}", attachment.mac));
        }
        if link.mtu != mtu {
            wrong.push(format!("its MTU is {}, not {mtu}", link.mtu));
        }
        if !link.up {
            wrong.push("it is down".to_owned());
        }
        let addresses = netlink.addresses(Some(name)).await?;
        for address in &attachment.addresses {
            if !addresses.iter().any(|entry| entry.address == *address) {
                wrong.push(format!("it lacks the address {address}"));
            }
        }
        let routes = netlink.routes(name).await?;
        for route in site.pod_routes(attachment) {
            let there = routes
                .iter()
                .any(|r| r.destination == route.destination && r.gateway == route.gateway);
            if !there {
                wrong.push(format!("it lacks the route {route}"));
            }
        }
        Ok(wrong)
    }

    /// Compares the attachment with the port as the core has it.
    async fn compare_core(&self, attachment: &Attachment) -> Result<Vec<String>, CniError> {
        let id = PortId(attachment.port);
        if let Some(why) = self.plane.failed().get(&id) {
            return Ok(vec![format!("its device is no longer served: {why}")]);
        }
        let after = attachment.port.checked_sub(1).map(PortId);
        let page = self.core.ports_page(Read::Ports { after }).await;
        let page = page.map_err(core_error)?;
        let port = page.into_iter().find(|(port, _)| port.entry.id == id);
        let Some((port, _)) = port else {
            return Ok(vec![format!("the packet core has no port {id}")]);
        };
        let expected = cluster::pod_port(attachment, &self.site());
        if expected.is_ok_and(|expected| expected == port.entry) {
            return Ok(Vec::new());
        }
        let kind = match port.entry.kind {
            PortKind::Endpoint(endpoint) => format!("{:?}", endpoint.addresses),
            _ => "no endpoint".to_owned(),
        };
        Ok(vec![format!(
            "the packet core has another port {id}: {kind}"
        )])
    }

    /// Carries out a CNI STATUS: can an ADD succeed now?
    pub(super) async fn cni_status(&self) -> Result<(), CniError> {
        let unavailable = |message: String| CniError::new(code::NOT_AVAILABLE, message);
        let welcome = self.core.welcome().await;
        let welcome = welcome.map_err(|error| unavailable(error.to_string()))?;
        if welcome.used.ports >= welcome.capacities.ports
            || welcome.used.routes >= welcome.capacities.routes
        {
            let message = "the packet core's tables are full; delete pods of this node";
            return Err(unavailable(message.to_owned()));
        }
        if let Some(why) = self.plane.failed().get(&cluster::UNDERLAY) {
            let message = format!("the underlay's socket has failed: {why}; restart culvertd");
            return Err(unavailable(message));
        }
        let (_, underlay) = self.look_at_underlay().await.map_err(unavailable)?;
        if !underlay.link.up {
            let message = format!("the underlay device {} is down", underlay.link.name);
            return Err(unavailable(message));
        }
        let wrong = self.host_problem().await;
        match wrong.map_err(|error| unavailable(error.to_string()))? {
            Some(wrong) => Err(unavailable(wrong)),
            None => Ok(()),
        }
    }

    /// What keeps the node and its pods from reaching each other.
    async fn host_problem(&self) -> Result<Option<String>, NetlinkError> {
        let site = self.site();
        let Some(device) = &site.config.device else {
            return Ok(None);
        };
        let Some(link) = self.netlink.find_link(device).await? else {
            return Ok(Some(format!(
                "the host device {device} is gone; restart culvertd"
            )));
        };
        if link.alias.as_deref() != Some(host::ALIAS) {
            return Ok(Some(format!(
                "the host device {device} was replaced by another; remove that and restart culvertd"
            )));
        }
        if !link.up {
            return Ok(Some(format!(
                "the host device {device} is down; set it up and restart culvertd"
            )));
        }
        let present = self.netlink.routes(device).await?;
        let lost = |wanted: Vec<Route>, present: &[Route]| {
            let there = |route: &Route| present.iter().any(|r| host::is_same(r, route));
            wanted.into_iter().find(|route| !there(route))
        };
        if let Some(route) = lost(site.host_routes(), &present) {
            return Ok(Some(format!(
                "the host device {device} has lost the route {route}; restart culvertd"
            )));
        }
        let present = self.netlink.routes_of(PROTOCOL_CULVERT).await?;
        let lost = lost(site.direct_routes(), &present);
        Ok(lost.map(|route| {
            format!("the node has lost the route {route} to another node's pods, which is put back within seconds unless something is in the way")
        }))
    }
}

/// Compares the attachment with what the runtime remembers of it.
fn compare_result(attachment: &Attachment, previous: &CniResult) -> Vec<String> {
    let mut wrong = Vec::new();
    let listed: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    for address in &attachment.addresses {
        if !listed.contains(address) {
            wrong.push(format!("prevResult lacks the address {address}"));
        }
    }
    let name = &attachment.key.ifname;
    let interface = previous
        .interfaces
        .iter()
        .find(|interface| interface.name == *name && interface.sandbox.is_some());
    match interface {
        None => wrong.push(format!("prevResult lacks the interface {name}")),
        Some(interface) if interface.mac != attachment.mac.to_string() => {
            wrong.push(format!(
                "prevResult has another MAC than {}",
                attachment.mac
            ));
        }
        Some(_) => {}
    }
    wrong
}
