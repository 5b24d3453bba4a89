//! The underlay by a TAP: whether it can be, its filters, and that they stay.
//!
//! What the worker writes into the TAP leaves by the underlay's device, and tunnel packets
//! for this node that come in there go to the TAP, past the node's own network stack. Both
//! is done by filters of the kernel's traffic control. What neighbors and routers say about
//! the way (ARP and ND answers, ICMP about packets that were too large) goes to both.
//! Fragments stay with the kernel: only the first one would tell that it is a tunnel's.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use culvert_core::channel::{Encap, MAX_ADDRESSES, Offloads, PortKind, Wire, WireAddress};
use ipnet::IpNet;

use super::site::Site;
use super::underlay::{self, Opened};
use super::{Daemon, StartError, cluster, start_error};
use crate::config::Config;
use crate::dataplane::{Driver, Underlay, WirePort};
use crate::mac::Mac;
use crate::netlink::{
    Filter, Link, Netlink, NetlinkError, PresentFilter, UnderlayLink, filter_from_tap,
    filters_to_tap,
};
use crate::sys::socket::Socket;
use crate::sys::tap::{Tap, TapError, TapOffloads, TapOptions};
use crate::sysctl::Setting;

/// What marks the TAP as culvert's.
const ALIAS: &str = "culvert: tunnel packets to and from the underlay";
/// In the run directory: the device that culvert has given the qdisc `clsact`.
const RECORD: &str = "clsact";
/// What a raw underlay port is told of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) mac: Mac,
    /// The node's addresses on the link: the underlay address, and the link-local one
    /// where the gateway is asked for by that.
    addresses: Vec<IpNet>,
    gateway: Option<IpAddr>,
}

impl Reach {
    /// The device sums up the outer header's datagram. Where the packet inside is not
    /// finished it would do the same all the same, so that is not left to it.
    pub(super) const OFFLOADS: Offloads = Offloads::OUTER_CHECKSUM;

    /// The port as the core is told.
    pub(super) fn port_kind(&self) -> PortKind {
        let addresses = self.addresses.iter().map(|own| WireAddress {
            address: own.addr(),
            prefix_length: own.prefix_len(),
        });
        // They are one or two.
        PortKind::Wire(Wire {
            addresses: addresses.take(MAX_ADDRESSES).collect(),
            gateways: self.gateway.into_iter().collect(),
        })
    }
}

/// The TAP that stands for the underlay's device.
pub(super) struct Joint {
    /// The TAP's index.
    index: u32,
    /// Keeps the tunnels' UDP port.
    _reserved: Option<Socket>,
}

/// Makes the TAP if the cluster's tunnels can go by one.
///
/// # Errors
/// In words, why they cannot.
pub(super) async fn open(
    config: &Config,
    (netlink, underlay): (&Netlink, &UnderlayLink),
) -> Result<(Tap, Reach), String> {
    if config.workers.count > 1 {
        // An answer comes to one worker, and each has neighbors of its own.
        return Err(
            "there are several workers, of which one alone would hear the answers of neighbors"
                .to_owned(),
        );
    }
    let reach = reach(config, (netlink, underlay)).await?;
    Ok((make_tap(&config.underlay.device)?, reach))
}

/// As [`open`], where a TAP is better than sockets in all that matters.
pub(super) async fn open_if_best(
    config: &Config,
    place: (&Netlink, &UnderlayLink),
) -> Result<(Tap, Reach), String> {
    let network = &config.cluster.network;
    if network.uses(Encap::Ipip) {
        return Err("the kernel cuts no super-frames in IP in IP from a TAP".to_owned());
    }
    if !network.outer_df {
        return Err("tunnel packets may come in fragments, which the kernel joins".to_owned());
    }
    let (tap, reach) = open(config, place).await?;
    let tried = try_to_join(place, tap.name()).await;
    tried.map_err(|error| format!("the TAP cannot be joined to the device: {error}"))?;
    Ok((tap, reach))
}

/// Tries what joining takes: a filter at the TAP, and a place for filters at the device,
/// which has none where an older qdisc, `ingress`, stands there.
async fn try_to_join(
    (netlink, underlay): (&Netlink, &UnderlayLink),
    tap: &str,
) -> Result<(), NetlinkError> {
    let tap = netlink.link(tap).await?;
    netlink.add_clsact(&tap).await?;
    let filter = filter_from_tap(underlay.link.index);
    netlink.add_filter(&tap, &filter).await?;
    netlink.delete_clsact(&tap).await?;
    if netlink.add_clsact(&underlay.link).await? {
        netlink.delete_clsact(&underlay.link).await?;
    }
    Ok(())
}

fn make_tap(name: &str) -> Result<Tap, String> {
    let options = TapOptions {
        offloads: TapOffloads::TUNNEL,
    };
    Tap::create(name, options).map_err(|error| match &error {
        TapError::Setup { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
            format!(
                "this kernel offers TAPs no tunnel packets, as Linux does from 6.17 on ({error})"
            )
        }
        TapError::NameTaken { .. } => {
            format!("{error}; remove it, or set another underlay.device in the configuration")
        }
        _ => error.to_string(),
    })
}

/// How the underlay's device reaches the other nodes, as far as a raw port can be told.
///
/// # Errors
/// In words, what it cannot be told.
async fn reach(
    config: &Config,
    (netlink, underlay): (&Netlink, &UnderlayLink),
) -> Result<Reach, String> {
    if config.cluster.network.uses(Encap::Direct) {
        return Err("nodes without a tunnel are reached by the kernel".to_owned());
    }
    let (link, address) = (&underlay.link, config.node.underlay);
    let name = &link.name;
    let is_device = |mac: &[u8; 6]| mac[0] & 1 == 0 && *mac != [0; 6];
    let mac = link.mac.filter(is_device);
    let mac = mac.ok_or_else(|| format!("{name} is no Ethernet device"))?;
    let own = IpNet::new(address, underlay.prefix_length).map_err(|error| error.to_string())?;
    let mut gateways = Vec::new();
    for node in config.peers() {
        let to = (node.name.as_str(), node.underlay);
        let hop = netlink.next_hop(node.underlay).await;
        let hop = hop.map_err(|error| error.to_string())?;
        if hop.link != link.index {
            return Err(format!("node {} ({}) is not reached by {name}", to.0, to.1));
        }
        match hop.gateway {
            None if own.contains(&to.1) => {}
            None => {
                return Err(format!(
                    "{} is on the link of {name} beyond its prefix",
                    to.1
                ));
            }
            Some(gateway) if own.contains(&to.1) => {
                return Err(format!(
                    "{} is on the link of {name} and behind {gateway}",
                    to.1
                ));
            }
            Some(gateway) if !gateways.contains(&gateway) => gateways.push(gateway),
            Some(_) => {}
        }
    }
    if let [one, other, ..] = gateways[..] {
        return Err(format!(
            "nodes are behind different routers, {one} and {other}"
        ));
    }
    let gateway = gateways.pop();
    let mut addresses = vec![own];
    if let Some(router) = gateway.filter(|router| !own.contains(router)) {
        let link_local = link_local(netlink, name).await?;
        match link_local.filter(|own| own.contains(&router)) {
            Some(link_local) => addresses.push(link_local),
            None => return Err(format!("the router {router} is in no prefix of {name}")),
        }
    }
    Ok(Reach {
        mac: Mac(mac),
        addresses,
        gateway,
    })
}

/// The interface's link-local IPv6 address.
async fn link_local(netlink: &Netlink, name: &str) -> Result<Option<IpNet>, String> {
    let all = netlink.addresses(Some(name)).await;
    let all = all.map_err(|error| error.to_string())?;
    let mut all = all.iter().filter_map(|entry| match entry.address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            IpNet::new(entry.address, entry.prefix_length).ok()
        }
        _ => None,
    });
    Ok(all.next())
}

/// Makes culvert's filters at a device these. Returns how many were missing.
async fn bring_filters(
    netlink: &Netlink,
    link: &Link,
    wanted: &[Filter],
) -> Result<usize, NetlinkError> {
    let present = netlink.ingress_filters(link).await?;
    let ours = present.iter().filter(|filter| filter.is_ours());
    for filter in ours.clone() {
        let stays = filter.filter.as_ref().is_some_and(|f| wanted.contains(f));
        if !stays {
            delete(netlink, link, filter).await?;
        }
    }
    let mut missing = 0;
    for filter in wanted {
        let mut ours = ours.clone();
        if !ours.any(|present| present.filter.as_ref() == Some(filter)) {
            missing += 1;
            netlink.add_filter(link, filter).await?;
        }
    }
    Ok(missing)
}

async fn delete(
    netlink: &Netlink,
    link: &Link,
    filter: &PresentFilter,
) -> Result<(), NetlinkError> {
    let place = (filter.priority, filter.ethertype);
    match netlink.delete_filters(link, place).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Takes away what a daemon that was killed has left: filters at whatever device, the TAP
/// if it is still there, and the qdisc that it made.
pub(super) async fn sweep(config: &Config, netlink: &Netlink) -> Result<(), StartError> {
    let links = netlink.links().await.map_err(start_error)?;
    let record = config.run_dir.join(RECORD);
    for link in &links {
        if link.alias.as_deref() == Some(ALIAS) && link.name == config.underlay.device {
            match netlink.delete_link(&link.name).await {
                Err(error) if !error.is_not_found() => return Err(start_error(error)),
                _ => continue,
            }
        }
        clear(netlink, link, &record).await.map_err(start_error)?;
    }
    Ok(())
}

/// Takes culvert's filters from a device, and its qdisc if culvert made that and nobody
/// else has a use for it now.
async fn clear(netlink: &Netlink, link: &Link, record: &Path) -> Result<(), NetlinkError> {
    let present = netlink.ingress_filters(link).await?;
    let (ours, others): (Vec<_>, Vec<_>) = present.into_iter().partition(PresentFilter::is_ours);
    for filter in &ours {
        delete(netlink, link, filter).await?;
    }
    let made = fs::read_to_string(record).unwrap_or_default();
    if made.trim() != link.name {
        return Ok(());
    }
    if others.is_empty() && netlink.egress_filters(link).await?.is_empty() {
        match netlink.delete_clsact(link).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    match fs::remove_file(record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{}: {error}", record.display());
        }
        _ => {}
    }
    Ok(())
}

impl Daemon {
    /// Gives the worker a TAP, by which the core can speak as soon as it knows of the
    /// wire. Returns what is due when the core has its tables.
    pub(super) async fn begin_underlay(
        &self,
        site: &Site,
        opened: Opened,
    ) -> Result<Option<Vec<Underlay>>, StartError> {
        match opened {
            Opened::Nothing => Ok(None),
            Opened::Sockets(sockets) => Ok(Some(sockets)),
            Opened::Tap(tap, reserved) => {
                *self.joint() = Some(Joint {
                    index: 0,
                    _reserved: reserved,
                });
                self.serve_tap(site, tap).await.map_err(StartError)?;
                Ok(None)
            }
        }
    }

    /// Lets tunnel packets come in.
    pub(super) async fn finish_underlay(
        &self,
        site: &Site,
        sockets: Option<Vec<Underlay>>,
    ) -> Result<(), StartError> {
        if let Some(sockets) = sockets {
            let port = cluster::UNDERLAY;
            let served = self.plane.serve_underlay(port, sockets).await;
            return served.map_err(start_error);
        }
        let Some(index) = self.joint_index() else {
            return Ok(());
        };
        let joined = self.join_underlay(site, index).await;
        joined.map(drop).map_err(start_error)
    }

    fn joint(&self) -> MutexGuard<'_, Option<Joint>> {
        self.wire.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn joint_index(&self) -> Option<u32> {
        self.joint().as_ref().map(|joint| joint.index)
    }

    /// Sets a TAP up and gives it to the worker.
    async fn serve_tap(&self, site: &Site, tap: Tap) -> Result<(), String> {
        let index = self.set_tap_up(site, tap.name()).await?;
        if let Some(joint) = &mut *self.joint() {
            joint.index = index;
        }
        let port = WirePort::new(tap).map_err(|error| error.to_string())?;
        let driver = Driver::Wire(Box::new(port));
        let attached = self.plane.attach(cluster::UNDERLAY, vec![driver]).await;
        attached.map_err(|error| error.to_string())
    }

    /// Sets the TAP up and lets all that is written into it leave by the underlay's
    /// device. Returns its index.
    async fn set_tap_up(&self, site: &Site, name: &str) -> Result<u32, String> {
        let failed = |error: NetlinkError| error.to_string();
        self.netlink.set_alias(name, ALIAS).await.map_err(failed)?;
        // The node itself has no business on it.
        match Setting::ipv6(name, "disable_ipv6").set("1") {
            Err(error) if !error.is_not_found() => return Err(error.to_string()),
            _ => {}
        }
        let mtu = site.underlay.link.mtu;
        self.netlink.set_mtu(name, mtu).await.map_err(failed)?;
        self.netlink.set_up(name).await.map_err(failed)?;
        let tap = self.netlink.link(name).await.map_err(failed)?;
        self.join_tap(site, &tap).await.map_err(failed)?;
        Ok(tap.index)
    }

    /// Brings the filter at the TAP. Returns how many were missing.
    async fn join_tap(&self, site: &Site, tap: &Link) -> Result<usize, NetlinkError> {
        let wanted = [filter_from_tap(site.underlay.link.index)];
        self.netlink.add_clsact(tap).await?;
        bring_filters(&self.netlink, tap, &wanted).await
    }

    /// Brings the filters at the underlay's device. Returns how many were missing.
    async fn join_underlay(&self, site: &Site, tap: u32) -> Result<usize, NetlinkError> {
        let link = &site.underlay.link;
        let wanted = filters_to_tap(&underlay::options(&site.config), tap);
        if self.netlink.add_clsact(link).await?
            && let Err(error) = fs::write(self.record_of_qdisc(), &link.name)
        {
            tracing::warn!("{}: {error}", self.record_of_qdisc().display());
        }
        bring_filters(&self.netlink, link, &wanted).await
    }

    fn record_of_qdisc(&self) -> PathBuf {
        self.site().config.run_dir.join(RECORD)
    }

    /// Brings back what is lost of the TAP and its filters.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn mend_wire(&self) -> Result<(), String> {
        let Some(before) = self.joint_index() else {
            return Ok(());
        };
        let _turn = self.changing.lock().await;
        let site = self.site();
        let name = &site.config.underlay.device;
        let failed = |error: NetlinkError| error.to_string();
        let found = self.netlink.find_link(name).await.map_err(failed)?;
        let mut missing = 0;
        match found.filter(|link| link.index == before) {
            None => {
                self.serve_tap(&site, make_tap(name)?).await?;
                tracing::warn!("the underlay's TAP {name} was lost, and is back");
            }
            Some(tap) if !tap.up || tap.mtu != site.underlay.link.mtu => {
                self.set_tap_up(&site, name).await?;
            }
            Some(tap) => missing += self.join_tap(&site, &tap).await.map_err(failed)?,
        }
        let tap = self.joint_index().unwrap_or(before);
        missing += self.join_underlay(&site, tap).await.map_err(failed)?;
        if missing > 0 {
            let link = &site.underlay.link.name;
            tracing::warn!("{missing} filters between {name} and {link} were lost, and are back");
        }
        Ok(())
    }

    /// Takes the TAP and its filters away; the TAP's own go with it.
    pub(super) async fn remove_wire(&self) {
        let Some(_joint) = self.joint().take() else {
            return;
        };
        let link = &self.site().underlay.link;
        let cleared = clear(&self.netlink, link, &self.record_of_qdisc()).await;
        match cleared {
            Err(error) if !error.is_not_found() => {
                tracing::warn!("filters stay at {}: {error}", link.name);
            }
            _ => {}
        }
        self.plane.detach(cluster::UNDERLAY).await;
    }

    /// What a raw underlay port is to know by a new configuration; `None` as long as it
    /// is none.
    ///
    /// # Errors
    /// When the new one cannot go by the TAP that the daemon began with.
    pub(super) async fn reach_again(
        &self,
        now: &Site,
        (config, link): (&Config, &UnderlayLink),
    ) -> Result<Option<Reach>, StartError> {
        if now.reach.is_none() {
            return Ok(None);
        }
        let found = reach(config, (&self.netlink, link)).await;
        found.map(Some).map_err(|why| {
            StartError(format!(
                "the underlay is a TAP, and that cannot be any more: {why}; that takes a restart of culvertd"
            ))
        })
    }

    /// As [`Daemon::reach_again`] by the same configuration. Where the way to a node is
    /// lost the former one stays.
    pub(super) async fn look_at_reach(&self, site: &Site, link: &UnderlayLink) -> Option<Reach> {
        let found = self.reach_again(site, (&site.config, link)).await;
        let problem = found.as_ref().err().map(ToString::to_string);
        self.set_problem("reach", problem);
        found.unwrap_or_else(|_| site.reach.clone())
    }
}
