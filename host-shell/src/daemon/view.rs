//! What `culvert` shows: the core's tables as they are, with the names that only
//! the control plane knows.

use std::collections::{BTreeMap, HashMap};

use culvert_core::channel::{Encap, NextHop, PROTOCOL, PortKind, Welcome};
use culvert_core::{Capacities, Counter, PortId};
use ipnet::IpNet;

use super::pod::core_error;
use super::{CoreError, Daemon, cluster, underlay};
use crate::api;
use crate::cni::CniError;
use crate::config::Node;
use crate::state::{Attachment, Phase};

impl Daemon {
    pub(super) async fn status(&self) -> Result<api::Status, CniError> {
        let core = self.core_facts().await?;
        let mut problems: Vec<String> = {
            let problems = self.problems.lock().unwrap_or_else(|e| e.into_inner());
            problems.values().cloned().collect()
        };
        problems.extend(self.failed_pods().await?);
        let appliance = self.appliance().await;
        let (free, devices, lost) = self.look_at_pool().await?;
        problems.extend(lost);
        if let Err(error) = self.cni_status().await {
            problems.push(error.msg);
        }
        let endpoints = match core {
            Some((_, endpoints)) => endpoints,
            None => self.committed().await?,
        };
        let workers = self.workers().await?;
        let site = self.site();
        let reloaded = self.reloaded.lock().unwrap_or_else(|e| e.into_inner());
        let reloaded = reloaded.as_ref().map(|reloaded| api::Reloaded {
            seconds_ago: reloaded.at.elapsed().as_secs(),
            changes: reloaded.changes.clone(),
        });
        Ok(api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: site.config.node.name.clone(),
            mode: super::reload::mode(&site.config).to_owned(),
            epoch: format!("{:016x}", self.core.epoch()),
            core_protocol: core.as_ref().map_or_else(
                || PROTOCOL.to_string(),
                |(welcome, _)| welcome.version.to_string(),
            ),
            tables: core.as_ref().map_or_else(Vec::new, |(welcome, _)| {
                table_use(&welcome.capacities, &welcome.used)
            }),
            underlay: api::Underlay {
                device: site.underlay.link.name.clone(),
                address: site.config.node.underlay,
                mtu: site.underlay.link.mtu,
                driver: self.way.clone(),
            },
            encapsulation: site.config.cluster.network.mode.to_string(),
            pod_mtu: site.pod_mtu,
            uptime_seconds: self.started.elapsed().as_secs(),
            endpoints,
            pool: site.config.offload.is_some().then(|| api::Pool {
                free: u32::try_from(free).unwrap_or(u32::MAX),
                devices: u32::try_from(devices).unwrap_or(u32::MAX),
            }),
            appliance,
            workers,
            problems,
            reloaded,
        })
    }

    /// The threads that forward, if they are this node's own.
    async fn workers(&self) -> Result<Vec<api::Worker>, CniError> {
        let cpus = self.plane.workers();
        if cpus.is_empty() {
            return Ok(Vec::new());
        }
        let packets = self.core.frames().await.map_err(core_error)?;
        let workers = (0..).zip(cpus).zip(packets);
        let workers = workers.map(|((number, cpu), packets)| api::Worker {
            number,
            cpu: cpu.and_then(|cpu| u32::try_from(cpu).ok()),
            packets,
        });
        Ok(workers.collect())
    }

    /// What the core is, and the number of its endpoints; `None` of an appliance that is
    /// not reached and of a core that is busy, which is shown as a problem.
    async fn core_facts(&self) -> Result<Option<(Welcome, u32)>, CniError> {
        let facts = async {
            let welcome = self.core.welcome().await?;
            let ports = self.core.ports().await?;
            let endpoints = ports
                .iter()
                .filter(|(port, _)| matches!(port.entry.kind, PortKind::Endpoint(_)));
            let endpoints = u32::try_from(endpoints.count()).unwrap_or(u32::MAX);
            Ok(Some((welcome, endpoints)))
        };
        match facts.await {
            Err(CoreError::Busy(_)) => Ok(None),
            facts => self.core.or_later(facts).map_err(core_error),
        }
    }

    /// The number of pods that are complete.
    async fn committed(&self) -> Result<u32, CniError> {
        let all = self.with_store(|store| store.list()).await?;
        let committed = all.iter().filter(|a| a.phase == Phase::Committed);
        Ok(u32::try_from(committed.count()).unwrap_or(u32::MAX))
    }

    /// The pods whose device has gone under the daemon's hands.
    async fn failed_pods(&self) -> Result<Vec<String>, CniError> {
        let failed = self.plane.failed();
        if failed.is_empty() {
            return Ok(Vec::new());
        }
        let attachments = self.with_store(|store| store.list()).await?;
        let problem = |attachment: &Attachment| {
            let why = failed.get(&PortId(attachment.port))?;
            let key = &attachment.key;
            Some(format!(
                "container {} is cut off: its interface {} is gone ({why}); delete and add it again",
                key.container_id, key.ifname
            ))
        };
        Ok(attachments.iter().filter_map(problem).collect())
    }

    /// Every attachment, and whether the core has it.
    pub(super) async fn endpoints(&self) -> Result<Vec<api::Endpoint>, CniError> {
        let attachments = self.with_store(|store| store.list()).await?;
        let ports = self.core.ports().await.map_err(core_error)?;
        let in_core: HashMap<u16, _> = ports
            .iter()
            .map(|(port, _)| (port.entry.id.0, &port.entry))
            .collect();
        let failed = self.plane.failed();
        let site = self.site();
        let state = |attachment: &Attachment| {
            if failed.contains_key(&PortId(attachment.port)) {
                return "cut off";
            }
            let expected = cluster::pod_port(attachment, &site).ok();
            let found = in_core.get(&attachment.port).copied();
            match (attachment.phase, found) {
                (Phase::Intent, _) => "adding",
                (Phase::Committed, Some(port)) if Some(port) == expected.as_ref() => "ready",
                (Phase::Committed, Some(_)) => "differs",
                (Phase::Committed, None) => "cut off",
            }
        };
        let all = attachments.iter().map(|attachment| api::Endpoint {
            addresses: attachment.addresses.clone(),
            mac: attachment.mac,
            container_id: attachment.key.container_id.clone(),
            ifname: attachment.key.ifname.clone(),
            netns: attachment.netns.clone(),
            port: attachment.port,
            state: state(attachment).to_owned(),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        Ok(all)
    }

    pub(super) async fn routes(&self) -> Result<Vec<api::Route>, CniError> {
        let routes = self.core.routes().await.map_err(core_error)?;
        let site = self.site();
        let nodes = site.nodes();
        let routes = routes.into_iter().filter_map(|route| {
            let prefix = route.entry.prefix;
            Some(api::Route {
                network: site.config.cluster.network.name.clone(),
                prefix: IpNet::new(prefix.address(), prefix.length()).ok()?,
                next_hop: next_hop(&nodes, route.entry.next_hop),
                owner: route.owner.to_string(),
            })
        });
        Ok(routes.collect())
    }

    pub(super) async fn peers(&self) -> Result<Vec<api::Peer>, CniError> {
        let peers = self.core.peers().await.map_err(core_error)?;
        let all_routes = self.core.routes().await.map_err(core_error)?;
        let site = self.site();
        let nodes = site.nodes();
        let encaps = [Encap::Vxlan, Encap::Ipip, Encap::Direct];
        let device_mtu = site.underlay.link.mtu;
        let peers = peers.into_iter().map(|(peer, routes)| {
            let peer = peer.entry;
            let sends = |encap: &&Encap| {
                let next_hop = NextHop::Peer {
                    peer: peer.id,
                    encap: **encap,
                };
                let mut routes = all_routes.iter();
                routes.any(|route| route.entry.next_hop == next_hop)
            };
            let sent: Vec<Encap> = encaps.iter().filter(sends).copied().collect();
            let overhead = |encap: &Encap| underlay::overhead(*encap, peer.underlay);
            let overhead = sent.iter().map(overhead).max().unwrap_or_default();
            let node = nodes.get(&peer.id.0);
            let path_mtu = self.events.path_mtu(peer.id);
            let accepted = encaps.iter().filter(|encap| peer.accepts.contains(**encap));
            api::Peer {
                name: node.map_or_else(|| peer.id.to_string(), |node| node.name.clone()),
                underlay: peer.underlay,
                vtep_mac: peer.vtep_mac.into(),
                node_addresses: peer.node_addresses.iter().copied().collect(),
                sent_by: sent.iter().map(ToString::to_string).collect(),
                mtu: device_mtu
                    .min(path_mtu.map_or(u32::MAX, u32::from))
                    .saturating_sub(overhead),
                path_mtu,
                encapsulations: accepted.map(ToString::to_string).collect(),
                routes,
            }
        });
        Ok(peers.collect())
    }

    /// The core's counters, then the drivers', and last what each of several workers has
    /// taken in.
    pub(super) async fn counters(&self) -> Result<Vec<api::Counter>, CniError> {
        let core = self.core.counters().await.map_err(core_error)?;
        let core = core.into_iter().map(|(counter, value)| api::Counter {
            name: match counter {
                Counter::Drop(reason) => format!("drop-{}", reason.name()),
                other => other.name().to_owned(),
            },
            value,
            help: counter.help().to_owned(),
        });
        let shell = self.plane.counters().into_iter();
        let shell = shell.map(|(counter, value)| api::Counter {
            name: counter.name().to_owned(),
            value,
            help: counter.help().to_owned(),
        });
        let workers = self.workers().await?;
        let several = workers.len() > 1;
        let workers = workers.iter().filter(|_| several).map(|worker| {
            let cpu = worker
                .cpu
                .map_or_else(String::new, |cpu| format!(" on CPU {cpu}"));
            api::Counter {
                name: format!("worker-{}-rx", worker.number),
                value: worker.packets,
                help: format!("Packets that worker {}{cpu} has taken in.", worker.number),
            }
        });
        Ok(core.chain(shell).chain(workers).collect())
    }
}

fn next_hop(nodes: &BTreeMap<u16, &Node>, next_hop: NextHop) -> String {
    match next_hop {
        NextHop::Blackhole => "blackhole".to_owned(),
        NextHop::Host => "host".to_owned(),
        NextHop::Endpoint(port) => format!("endpoint {port}"),
        NextHop::Peer { peer, encap } => {
            let node = nodes.get(&peer.0);
            let name = node.map_or_else(|| peer.to_string(), |node| node.name.clone());
            format!("peer {name} {encap}")
        }
    }
}

fn table_use(capacities: &Capacities, used: &Capacities) -> Vec<api::TableUse> {
    let row = |table: &str, used, capacity| api::TableUse {
        table: table.to_owned(),
        used,
        capacity,
    };
    vec![
        row("networks", used.networks, capacities.networks),
        row("ports", used.ports, capacities.ports),
        row("peers", used.peers, capacities.peers),
        row("routes", used.routes, capacities.routes),
    ]
}
