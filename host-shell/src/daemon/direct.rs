//! Other nodes without a tunnel: the kernel routes their pods' packets over the underlay.
//!
//! A pod's packet goes by the host's device to the node's own network stack, which sends it
//! on to the other node by a route that this file makes; what comes back goes the same way.
//! For that the kernel must forward between two interfaces, the host's device and the
//! underlay's: on these it is switched on, and off again when the daemon ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use culvert_core::channel::Encap;
use ipnet::IpNet;

use super::site::Site;
use super::{Daemon, StartError, start_error, underlay};
use crate::config::Mode;
use crate::netlink::{NetlinkError, PROTOCOL_CULVERT, Route};
use crate::sysctl::{Setting, SysctlError};

/// In the run directory: settings that culvert changed and what they were before. Both are
/// gone after a boot.
const RECORD: &str = "forwarding.json";
const OFF: &str = "0";
const ON: &str = "1";

impl Daemon {
    /// Brings routes and forwarding to what the configuration needs, whatever an earlier
    /// daemon or configuration left.
    pub(super) async fn build_direct(&self, site: &Site) -> Result<(), StartError> {
        let wanted = site.direct_routes();
        let needed = site.forwarded(&wanted);
        match needed.is_empty() {
            true => self.restore_forwarding(),
            false => self.allow_forwarding(site, &needed)?,
        }
        let present = self.present_direct_routes().await.map_err(start_error)?;
        self.bring_routes(&present, &wanted).await
    }

    /// Adds what [`Daemon::build_direct`] will want, and leaves what is there: packets
    /// may need both while the core changes from one to the other. A node that is
    /// reached over another address has its route changed later.
    pub(super) async fn prepare_direct(&self, site: &Site) -> Result<(), StartError> {
        let wanted = site.direct_routes();
        let needed = site.forwarded(&wanted);
        if !needed.is_empty() {
            self.allow_forwarding(site, &needed)?;
        }
        let present = self.present_direct_routes().await.map_err(start_error)?;
        for route in &wanted {
            let mut present = present.iter();
            if !present.any(|present| present.destination == route.destination) {
                self.bring_route(route).await?;
            }
        }
        Ok(())
    }

    /// Takes away what [`Daemon::build_direct`] made.
    pub(super) async fn remove_direct(&self) {
        for route in self.present_direct_routes().await.unwrap_or_default() {
            match self.netlink.delete_route(&route).await {
                Err(error) if !error.is_not_found() => tracing::warn!("a route stays: {error}"),
                _ => {}
            }
        }
        self.restore_forwarding();
    }

    /// The routes that culvert has made by other interfaces than the host's device.
    pub(super) async fn present_direct_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = self.netlink.routes_of(PROTOCOL_CULVERT).await?;
        let site = self.site();
        routes.retain(|route| site.config.device.as_ref() != Some(&route.link));
        Ok(routes)
    }

    /// Lets the kernel forward between the host's device and the underlay's, and keeps
    /// what their settings were.
    fn allow_forwarding(&self, site: &Site, blocks: &[IpNet]) -> Result<(), StartError> {
        let mut needed = Vec::new();
        // Where nodes are reached without a tunnel by the kernel, it has both.
        let host = site.config.device.iter();
        let links = host.chain([&site.underlay.link.name]);
        for block in blocks {
            if block.addr().is_ipv4() {
                needed.extend(links.clone().map(|link| Setting::ipv4(link, "forwarding")));
            } else if forwarding_of_all("ipv6").map_err(start_error)? == OFF {
                needed.extend(
                    links
                        .clone()
                        .map(|link| Setting::ipv6(link, "force_forwarding")),
                );
            }
        }
        let mut record = self.read_record();
        for setting in needed {
            let before = setting.get().map_err(cannot_forward)?;
            if before == ON {
                continue;
            }
            // What a daemon that was killed has noted is older, and right.
            record
                .entry(setting.to_string())
                .or_insert((setting.clone(), before));
            self.write_record(&record)?;
            setting.set(ON).map_err(cannot_forward)?;
        }
        Ok(())
    }

    /// Gives settings that culvert changed their former values, except where forwarding was
    /// switched on for the whole node since: that is somebody else's wish.
    fn restore_forwarding(&self) {
        let record = self.read_record();
        for (setting, before) in record.values() {
            let wanted_by_others = forwarding_of_all(&setting.protocol);
            if wanted_by_others.is_ok_and(|all| all == ON) {
                continue;
            }
            match setting.set(before) {
                Err(error) if !error.is_not_found() => tracing::warn!("{error}"),
                _ => {}
            }
        }
        match fs::remove_file(self.record_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", self.record_path().display());
            }
            _ => {}
        }
    }

    fn record_path(&self) -> PathBuf {
        self.site().config.run_dir.join(RECORD)
    }

    fn read_record(&self) -> Record {
        let text = fs::read(self.record_path()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write_record(&self, record: &Record) -> Result<(), StartError> {
        let path = self.record_path();
        let text = serde_json::to_vec(record).map_err(start_error)?;
        fs::write(&path, text)
            .map_err(|error| StartError(format!("{} cannot be written: {error}", path.display())))
    }
}

impl Site {
    /// To the pods of each node that is reached without a tunnel.
    pub(super) fn direct_routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        if self.config.offload.is_some() {
            return routes; // The appliance has the underlay, and sends to nodes itself.
        }
        for node in self.config.peers() {
            let direct = |pods: &&IpNet| {
                let to = (node, pods.addr());
                underlay::encap_to(&self.config, &self.underlay, to) == Encap::Direct
            };
            // The node speaks to pods from its own address in their network, as through a
            // tunnel: they answer that, whatever IP version the underlay has.
            let own = |pods: &IpNet| {
                let mut own = self.config.node.addresses();
                own.find(|own| own.is_ipv4() == pods.addr().is_ipv4())
            };
            routes.extend(node.pods.iter().filter(direct).map(|pods| Route {
                protocol: PROTOCOL_CULVERT,
                source: own(pods),
                ..Route::via(*pods, node.underlay, &self.underlay.link.name)
            }));
        }
        routes
    }

    /// This node's blocks whose packets come or go without a tunnel. They may come so
    /// where none go: from a node that does not use the new encapsulation yet.
    fn forwarded(&self, routes: &[Route]) -> Vec<IpNet> {
        let network = &self.config.cluster.network;
        if self.config.offload.is_some() {
            return Vec::new();
        }
        let any = match network.mode {
            Mode::CrossSubnet(_) => !routes.is_empty(),
            Mode::One(_) => network.uses(Encap::Direct),
        };
        let over_v6 = self.config.node.underlay.is_ipv6();
        let own = self.config.node.pods.iter().copied();
        own.filter(|pods| any && (pods.addr().is_ipv4() || over_v6))
            .collect()
    }
}

/// A setting's name → the setting and its value before culvert changed it.
type Record = BTreeMap<String, (Setting, String)>;

/// Whether the whole namespace forwards packets of this protocol.
fn forwarding_of_all(protocol: &str) -> Result<String, SysctlError> {
    match protocol {
        "ipv4" => Setting::ipv4("all", "forwarding").get(),
        _ => Setting::ipv6("all", "forwarding").get(),
    }
}

fn cannot_forward(error: SysctlError) -> StartError {
    StartError(match error.is_not_found() {
        true => format!(
            "routes without a tunnel need the kernel to forward IPv6, and it cannot for two interfaces only \
             ({error}; it came with Linux 6.17): switch it on with `sysctl -w net.ipv6.conf.all.forwarding=1`, \
             and accept_ra=2 on interfaces that live from router advertisements, or use a tunnel"
        ),
        false => format!("routes without a tunnel need the kernel to forward: {error}"),
    })
}
