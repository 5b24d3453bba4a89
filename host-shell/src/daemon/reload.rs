//! Another configuration, or another underlay, without a restart: the core's entries of
//! the cluster are replaced by a sync, so that what stays forwards all the time, and
//! attachments are not touched.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use culvert_core::channel::Owner;

use super::site::Site;
use super::{Daemon, StartError, cluster, start_error, underlay};
use crate::config::{ChannelAddress, Config, Node, Offload};
use crate::dataplane::Plan;
use crate::netlink::UnderlayLink;

/// What a reload has brought.
#[derive(Debug, Clone)]
pub(super) struct Reloaded {
    pub(super) at: Instant,
    pub(super) changes: Vec<String>,
}

impl Daemon {
    /// Reads the configuration again and works by it from now on. Returns what has
    /// changed, a line each.
    ///
    /// # Errors
    /// What is wrong with the files, or takes a restart: the daemon goes on as before.
    pub(super) async fn reload(&self) -> Result<Vec<String>, StartError> {
        let _turn = self.changing.lock().await;
        let done = self.try_reload().await;
        let refused = done.as_ref().err();
        let problem = refused.map(|error| {
            format!("the reload was refused, and everything goes on as before: {error}")
        });
        self.set_problem("reload", problem);
        let changes = done?;
        match &changes[..] {
            [] => tracing::info!("reloaded: nothing has changed"),
            changes => log(changes),
        }
        *self.reloaded.lock().unwrap_or_else(|e| e.into_inner()) = Some(Reloaded {
            at: Instant::now(),
            changes: changes.clone(),
        });
        Ok(changes)
    }

    async fn try_reload(&self) -> Result<Vec<String>, StartError> {
        let now = self.site();
        let path = now.config.path.clone();
        let config = tokio::task::spawn_blocking(move || super::load(&path)).await;
        let config = config.map_err(start_error)??;
        let fixed = fixed(&now.config, &config);
        if !fixed.is_empty() {
            return Err(StartError(fixed.join("\n")));
        }
        let underlay = underlay::find_link(&config, &self.netlink).await?;
        let reach = self.reach_again(&now, (&config, &underlay)).await?;
        let new = Site::new(config, underlay, &now.peers)?;
        let new = Site { reach, ..new };
        let changes = changes(&now, &new);
        self.adopt(&now, new).await?;
        Ok(changes)
    }

    /// The underlay's device as it is now. What has changed of it since, above all its
    /// MTU, is adopted first.
    ///
    /// # Errors
    /// In words: it is gone, or leaves no room for the pods' packets.
    pub(super) async fn look_at_underlay(&self) -> Result<(Arc<Site>, UnderlayLink), String> {
        let site = self.site();
        let found = self.find_underlay(&site).await?;
        let reach = self.look_at_reach(&site, &found).await;
        if is_same(&site.underlay, &found) && site.reach == reach {
            return Ok((site, found));
        }
        let _turn = self.changing.lock().await;
        let site = self.site();
        let found = self.find_underlay(&site).await?;
        let reach = self.look_at_reach(&site, &found).await;
        if is_same(&site.underlay, &found) && site.reach == reach {
            return Ok((site, found));
        }
        let new = Site::new(site.config.clone(), found.clone(), &site.peers);
        let new = new.map_err(|error| error.to_string())?;
        let new = Site { reach, ..new };
        let changes = changes(&site, &new);
        let adopted = self.adopt(&site, new).await;
        adopted.map_err(|error| error.to_string())?;
        log(&changes);
        Ok((self.site(), found))
    }

    async fn find_underlay(&self, site: &Site) -> Result<UnderlayLink, String> {
        let (device, address) = (&site.underlay.link.name, site.config.node.underlay);
        if let Some(offload) = &site.config.offload {
            return Ok(underlay::of_uplink(&offload.uplink, address));
        }
        let found = self.netlink.link_of_address(address).await;
        if let Some(found) = found.map_err(|error| error.to_string())? {
            return Ok(found);
        }
        let link = self.netlink.find_link(device).await;
        Err(match link.map_err(|error| error.to_string())? {
            None => format!(
                "the underlay device {device} is gone, and with it {address}: bring both back"
            ),
            Some(_) => {
                format!("the underlay device {device} has lost the address {address}: give it back")
            }
        })
    }

    /// Works by `new` from now on. The kernel's routes are there before the core sends
    /// by them, and go when it no longer does. The caller holds `changing`.
    async fn adopt(&self, now: &Site, new: Site) -> Result<(), StartError> {
        let operations = cluster::operations(&new).map_err(start_error)?;
        if let Some(offload) = &new.config.offload {
            let too_small = self.uplink_problem(&self.core, &offload.uplink).await;
            if let Some(why) = self.core.or_later(too_small).map_err(start_error)? {
                return Err(StartError(why));
            }
        }
        let mut changed = self.prepare_direct(&new).await;
        if changed.is_ok() {
            let replaced = self.core.replace(Owner::Cluster, &operations).await;
            let replaced = self.core.or_later(replaced);
            changed = replaced.map(drop).map_err(start_error);
        }
        if let Err(error) = changed {
            if let Err(more) = self.go_back(now).await {
                tracing::error!("what a refused change began was not undone: {more}");
            }
            return Err(error);
        }
        let (pod_mtu, device) = (new.pod_mtu, new.config.device.clone());
        let nodes = new.nodes();
        self.events
            .forget_peers(|peer| !nodes.contains_key(&peer.0));
        drop(nodes);
        let new = Arc::new(new);
        *self.site.write().unwrap_or_else(|e| e.into_inner()) = Arc::clone(&new);
        if let Some(offload) = &new.config.offload {
            let set = self.set_roles(&self.core, offload).await;
            let set = self.core.or_later(set);
            self.set_problem("roles", set.err().map(|error| error.to_string()));
        }
        let host = match device {
            Some(device) if pod_mtu != now.pod_mtu => self.netlink.set_mtu(&device, pod_mtu).await,
            _ => Ok(()),
        };
        self.set_problem("host device", host.err().map(|error| error.to_string()));
        let direct = self.build_direct(&new).await;
        self.set_problem("direct", direct.err().map(|error| error.to_string()));
        Ok(())
    }

    /// Undoes what a change began that failed.
    async fn go_back(&self, to: &Site) -> Result<(), StartError> {
        self.program_cluster(to).await?;
        self.build_direct(to).await
    }
}

fn log(changes: &[String]) {
    for change in changes {
        tracing::info!("changed: {change}");
    }
}

/// Whether a device is as it was, as far as it matters.
fn is_same(before: &UnderlayLink, now: &UnderlayLink) -> bool {
    let facts = |found: &UnderlayLink| {
        let link = &found.link;
        (link.index, link.name.clone(), link.mtu, found.prefix_length)
    };
    facts(before) == facts(now)
}

/// What differs and cannot change while the daemon runs: pods, sockets, devices and the
/// database were made by it.
fn fixed(now: &Config, new: &Config) -> Vec<String> {
    let of_node = (&new.path, node_values(now), node_values(new));
    let of_cluster = (&new.cluster_path, cluster_values(now), cluster_values(new));
    let mut found = Vec::new();
    for (file, before, after) in [of_node, of_cluster] {
        for ((key, before), (_, after)) in before.into_iter().zip(after) {
            if before != after {
                found.push(format!(
                    "{}: {key} is {after} and was {before} at the start; that takes a restart of culvertd",
                    file.display()
                ));
            }
        }
    }
    let has_sockets = now.offload.is_none();
    if found.is_empty() && has_sockets && underlay::options(now) != underlay::options(new) {
        found.push(format!(
            "{}: encap and accept ask for a tunnel that was not in use at the start, or no longer for one that was; its sockets take a restart of culvertd",
            new.cluster_path.display()
        ));
    }
    found
}

/// What is fixed of the node's own file, by its keys.
fn node_values(config: &Config) -> Vec<(String, String)> {
    let path = |path: &Path| path.display().to_string();
    let offload = config.offload.as_ref();
    let of_offload = |value: fn(&Offload) -> String| offload.map_or_else(String::new, value);
    let values = [
        ("node", config.node.name.clone()),
        ("run_dir", path(&config.run_dir)),
        ("state_dir", path(&config.state_dir)),
        ("log", config.log.clone()),
        ("host.device", config.device.clone().unwrap_or_default()),
        ("underlay.driver", format!("{:?}", config.underlay.driver)),
        ("underlay.device", config.underlay.device.clone()),
        ("mode", mode(config).to_owned()),
        ("workers", workers(config)),
        (
            "offload.channel",
            of_offload(|offload| offload.channel.to_string()),
        ),
        ("offload.key_file", of_offload(key_file)),
        (
            "offload.management",
            of_offload(|offload| format!("{:?}", offload.management)),
        ),
        (
            "offload.uplink.port",
            of_offload(|offload| offload.uplink.port.to_string()),
        ),
        (
            "offload.host",
            of_offload(|offload| format!("{:?}", offload.host)),
        ),
    ];
    values.map(|(key, value)| (key.to_owned(), value)).into()
}

fn key_file(offload: &Offload) -> String {
    match &offload.channel {
        ChannelAddress::Tcp { key_file, .. } => key_file.display().to_string(),
        ChannelAddress::Unix(_) | ChannelAddress::Serial(_) => String::new(),
    }
}

fn workers(config: &Config) -> String {
    let Plan { count, cpus, spin } = &config.workers;
    format!(
        "{count} on [{}] with spin_us {}",
        list(cpus),
        spin.as_micros()
    )
}

/// Who forwards.
pub(super) fn mode(config: &Config) -> &'static str {
    match config.offload {
        None => "host",
        Some(_) => "offload",
    }
}

/// What is fixed of the cluster's file.
fn cluster_values(config: &Config) -> Vec<(String, String)> {
    let (node, network) = (&config.node, &config.cluster.network);
    let gateway = format!(
        "{} {} at {}",
        network.gateway, network.gateway6, network.gateway_mac
    );
    let own = [
        ("underlay", node.underlay.to_string()),
        ("pods", list(&node.pods)),
    ];
    let own = own.map(|(key, value)| (format!("{key} of this node {}", node.name), value));
    let values = [
        ("name", network.name.clone()),
        ("prefix", list(&network.prefixes)),
        ("vni", network.vni.to_string()),
        ("udp_port", network.udp_port.to_string()),
        ("the gateway", gateway),
        ("proxy", format!("{:?}", network.proxy)),
        ("udp_checksum", network.udp_checksum.to_string()),
        ("outer_df", network.outer_df.to_string()),
    ];
    let values = values.map(|(key, value)| (key.to_owned(), value));
    own.into_iter().chain(values).collect()
}

/// What can change of `[offload]`, by its keys; nothing in host mode.
fn offload_values(config: &Config) -> Vec<(&'static str, String)> {
    let Some(Offload {
        uplink,
        devices,
        nics,
        ..
    }) = &config.offload
    else {
        return Vec::new();
    };
    let (own, gateways) = (list(&uplink.addresses), list(&uplink.gateways));
    let named = devices.iter();
    let named: Vec<_> = named.map(|d| format!("{} at {}", d.name, d.port)).collect();
    let roles = nics.iter();
    let roles: Vec<_> = roles.map(|(mac, role)| format!("{mac} {role}")).collect();
    vec![
        (
            "offload.uplink",
            format!("{} {own} via {gateways}", uplink.mac),
        ),
        ("offload.devices", list(&named)),
        ("offload.nics", list(&roles)),
    ]
}

/// What is another one than before, a line each.
fn changes(now: &Site, new: &Site) -> Vec<String> {
    let mut changes = node_changes(&now.config, &new.config);
    let mut compare = |key: &str, before: String, after: String| {
        if before != after {
            changes.push(format!("{key}: {before} → {after}"));
        }
    };
    let (before, after) = (&now.config.cluster.network, &new.config.cluster.network);
    compare("encap", before.mode.to_string(), after.mode.to_string());
    compare("accept", list(&before.accept), list(&after.accept));
    let switches = [
        ("flood", before.flood, after.flood),
        ("clamp_mss", before.clamp_mss, after.clamp_mss),
    ];
    for (key, before, after) in switches {
        compare(key, before.to_string(), after.to_string());
    }
    let underlay = |site: &Site| {
        let (link, bits) = (&site.underlay.link, site.underlay.prefix_length);
        format!("{} mtu {} prefix /{bits}", link.name, link.mtu)
    };
    compare("underlay", underlay(now), underlay(new));
    let both = offload_values(&now.config).into_iter();
    for ((key, before), (_, after)) in both.zip(offload_values(&new.config)) {
        compare(key, before, after);
    }
    let (before, after) = (now.pod_mtu.to_string(), new.pod_mtu.to_string());
    compare("mtu of new pods", before, after);
    changes
}

fn node_changes(now: &Config, new: &Config) -> Vec<String> {
    let named = |config: &Config, name: &str| {
        let mut nodes = config.cluster.nodes.iter();
        nodes.find(|node| node.name == name).cloned()
    };
    let mut changes = Vec::new();
    for node in now.peers() {
        match named(new, &node.name) {
            None => changes.push(format!("node {} is gone", node.name)),
            Some(after) if after == *node => {}
            Some(after) => changes.push(format!(
                "node {}: {} → {}",
                node.name,
                facts(node),
                facts(&after)
            )),
        }
    }
    let added = new.peers().filter(|node| named(now, &node.name).is_none());
    changes.extend(added.map(|node| format!("node {} is new: {}", node.name, facts(node))));
    changes
}

fn facts(node: &Node) -> String {
    format!(
        "{} pods {} vtep {}",
        node.underlay,
        list(&node.pods),
        node.vtep()
    )
}

fn list<T: Display>(all: &[T]) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
