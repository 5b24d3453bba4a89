//! culvertd: the control plane.
//!
//! It owns the devices, the database and the intent; the packets are the
//! workers'. What the core forwards by changes through its control channel only.

mod add;
mod appliance;
mod check;
mod cluster;
mod core;
mod decode;
mod del;
mod direct;
mod events;
mod host;
mod link;
mod locks;
mod plane;
mod pod;
mod pool;
mod reload;
mod replicas;
mod restore;
mod site;
mod underlay;
mod view;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use culvert_core::channel::Owner;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::api::{self, CniRequest, Handler, Reply, Request};
use crate::cni::{CniError, Command, NetConf, code};
use crate::config::Config;
use crate::dataplane::WorkerEnded;
use crate::ipam::Pools;
use crate::netlink::Netlink;
use crate::spool;
use crate::state::{StateError, Store};
use crate::sys::netns::NetNs;

use self::core::Core;
pub(crate) use self::core::CoreError;
use events::EventLog;
pub(crate) use link::Link;
use locks::Locks;
use plane::Plane;
use reload::Reloaded;
use site::{PeerIds, Site};

/// How long the calls at work may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// An error in words, for the person who started the daemon or changed its configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

fn start_error(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

/// The daemon, running.
pub struct Daemon {
    site: RwLock<Arc<Site>>,
    /// Held by whoever changes the site.
    changing: tokio::sync::Mutex<()>,
    reloaded: Mutex<Option<Reloaded>>,
    events: EventLog,
    core: Core,
    plane: Plane,
    store: Arc<Store>,
    host_ns: NetNs,
    netlink: Netlink,
    locks: Locks,
    /// What is wrong, by the thing that it is wrong with; shown by `culvert status`.
    problems: Mutex<BTreeMap<String, String>>,
    started: Instant,
    /// How tunnel packets get to the wire, and why so.
    way: String,
    /// The TAP in the place of the underlay's device, if it is one.
    wire: Mutex<Option<wire::Joint>>,
}

/// Runs the daemon with this configuration until SIGTERM or SIGINT; ADDs and DELs
/// that are at work then are finished and answered. SIGHUP makes it read the
/// configuration again.
///
/// # Errors
/// [`StartError`] in words; nothing that was made on the way stays.
pub async fn run(config: Config) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(start_error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(start_error)?;
    let hangup = signal(SignalKind::hangup()).map_err(start_error)?;
    let listener = api::bind(&config.run_dir).map_err(start_error)?;
    let (daemon, ended) = Daemon::start(config).await?;
    let daemon = Arc::new(daemon);
    daemon.restore().await?;
    if let Err(error) = daemon.connect().await {
        // It goes on being tried, and meanwhile calls are told.
        tracing::warn!("{error}");
    }
    daemon.carry_out_spool().await;
    let site = daemon.site();
    tracing::info!(
        node = site.config.node.name,
        underlay = %site.config.node.underlay,
        device = site.underlay.link.name,
        by = daemon.way,
        pod_mtu = site.pod_mtu,
        "ready"
    );
    tokio::select! {
        served = api::serve(listener, Arc::clone(&daemon)) => served.map_err(start_error)?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        never = daemon.watch_events() => match never {},
        never = daemon.watch_network() => match never {},
        never = daemon.keep_channel() => match never {},
        never = daemon.reload_on(hangup) => match never {},
        _ = ended => {
            daemon.remove_wire().await;
            let why = "a data-plane worker has ended and its share is not forwarded; see the log above";
            return Err(StartError(why.to_owned()));
        }
        how = daemon.core.diverged() => {
            daemon.remove_wire().await;
            return Err(start_error(CoreError::Diverged(how)));
        }
    }
    tracing::info!("stopping");
    if timeout(STOP_PATIENCE, daemon.locks.close()).await.is_err() {
        tracing::warn!("calls that do not end are cut off; the next start undoes them");
    }
    daemon.stop().await;
    Ok(())
}

impl Daemon {
    /// Builds everything but the pods that were there before.
    /// Also returns what resolves when a worker ends.
    async fn start(config: Config) -> Result<(Daemon, WorkerEnded), StartError> {
        let store = open_store(&config)?;
        let host_ns = NetNs::current().map_err(start_error)?;
        let netlink = Netlink::connect(None).map_err(start_error)?;
        let underlay = underlay::find_link(&config, &netlink).await?;
        // Before anything is made: there must be room for the tunnel.
        underlay::pod_mtu(&config, &underlay)?;
        let way = underlay::open(&config, (&netlink, &underlay)).await?;
        // Random: a core that has booted since cannot be taken for this one.
        let epoch = RandomState::new().hash_one(std::process::id()).max(1);
        let (plane, core, ended) = Plane::start(&config, epoch).await?;
        let site = Site::new(config, underlay, &PeerIds::default())?;
        let (reach, why) = (way.reach.clone(), way.why.clone());
        let site = Arc::new(Site { reach, ..site });
        let daemon = Daemon {
            site: RwLock::new(Arc::clone(&site)),
            changing: tokio::sync::Mutex::default(),
            reloaded: Mutex::default(),
            events: EventLog::default(),
            core,
            plane,
            store: Arc::new(store),
            host_ns,
            netlink,
            locks: Locks::default(),
            problems: Mutex::default(),
            started: Instant::now(),
            way: why,
            wire: Mutex::default(),
        };
        let later = daemon.begin_underlay(&site, way.opened).await?;
        daemon.program_cluster(&site).await?;
        daemon.build_host_device().await?;
        if let Err(error) = daemon.build_direct(&site).await {
            daemon.stop().await;
            return Err(error);
        }
        if let Err(error) = daemon.finish_underlay(&site, later).await {
            daemon.stop().await;
            return Err(error);
        }
        Ok((daemon, ended))
    }

    /// Makes the cluster's entries in the core these, whatever they were.
    async fn program_cluster(&self, site: &Site) -> Result<(), StartError> {
        let operations = cluster::operations(site).map_err(start_error)?;
        let replaced = self.core.replace(Owner::Cluster, &operations).await;
        let replaced = self.core.or_later(replaced);
        replaced.map(drop).map_err(start_error)
    }

    /// What the daemon works by at the moment.
    fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.read().unwrap_or_else(|e| e.into_inner()))
    }

    async fn reload_on(&self, mut hangup: Signal) -> Infallible {
        loop {
            hangup.recv().await;
            // It is in the log and in the status.
            let _ = self.reload().await;
        }
    }

    /// Runs a database operation where it may block.
    async fn with_store<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Store) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, CniError> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || operation(&store))
            .await
            .map_err(|error| CniError::new(code::INTERNAL, error.to_string()))?
            .map_err(|error| state_error(&error))
    }

    fn set_problem(&self, thing: &str, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(|e| e.into_inner());
        match problem {
            Some(problem) => {
                if problems.get(thing) != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                problems.insert(thing.to_owned(), problem);
            }
            None => drop(problems.remove(thing)),
        }
    }

    /// Carries out the deletions that came while no daemon ran.
    async fn carry_out_spool(&self) {
        let dir = spool::spool_dir(&self.site().config.state_dir);
        let entries = match spool::read(&dir) {
            Ok(entries) => entries,
            Err(error) => return self.set_problem("spool", Some(error.to_string())),
        };
        for entry in entries {
            let done = match &entry.request {
                Ok(request) => self.cni(request).await.map(|_| ()),
                Err(broken) => {
                    tracing::warn!("a spooled deletion is unreadable: {broken}");
                    Ok(())
                }
            };
            match done {
                Ok(()) => {
                    if let Err(error) = spool::remove(&entry.path) {
                        self.set_problem("spool", Some(error.to_string()));
                    }
                }
                // It stays for the next start.
                Err(error) => self.set_problem("spool", Some(error.msg)),
            }
        }
    }

    async fn cni(&self, request: &CniRequest) -> Result<serde_json::Value, CniError> {
        let conf = NetConf::from_value(request.config.clone())?;
        let environment = &request.environment;
        let null = serde_json::Value::Null;
        match environment.command() {
            Command::Add => {
                let result = self.add(environment, &conf).await?;
                Ok(result.to_version(conf.version))
            }
            Command::Del => self.del(environment).await.map(|()| null),
            Command::Check => self.check(environment, &conf).await.map(|()| null),
            Command::Gc => self.gc(&conf).await.map(|()| null),
            Command::Status => self.cni_status().await.map(|()| null),
            Command::Version => Ok(crate::cni::version_answer()),
        }
    }
}

impl Handler for Daemon {
    async fn handle(&self, request: Request) -> Result<Reply, CniError> {
        match request {
            Request::Cni(request) => {
                let answer = self.cni(&request).await;
                if let Err(error) = &answer {
                    let environment = &request.environment;
                    tracing::warn!(
                        command = %environment.command(),
                        container = environment.container_id(),
                        ifname = environment.ifname(),
                        code = error.code,
                        "{} {}", error.msg, error.details
                    );
                }
                answer.map(Reply::Cni)
            }
            Request::Status => Ok(Reply::Status(Box::new(self.status().await?))),
            Request::Endpoints => self.endpoints().await.map(Reply::Endpoints),
            Request::Routes => self.routes().await.map(Reply::Routes),
            Request::Peers => self.peers().await.map(Reply::Peers),
            Request::Counters => self.counters().await.map(Reply::Counters),
            Request::Events { after } => Ok(Reply::Events(self.events.after(after))),
            Request::Reload => {
                let changes = self.reload().await.map(Reply::Reload);
                changes.map_err(|error| CniError::new(code::INVALID_CONFIG, error.0))
            }
        }
    }
}

fn open_store(config: &Config) -> Result<Store, StartError> {
    let pools = Pools::new(&config.cluster.network.name, &config.node.pods);
    let pools = pools.map_err(start_error)?;
    Store::open(&config.state_dir, pools, cluster::POD_PORTS).map_err(start_error)
}

fn state_error(error: &StateError) -> CniError {
    let code = match error {
        StateError::Duplicate(_) => code::DUPLICATE,
        StateError::NotInPool { .. }
        | StateError::NoPool { .. }
        | StateError::AddressInUse { .. }
        | StateError::PoolExhausted { .. }
        | StateError::DevicesExhausted { .. }
        | StateError::PortsExhausted { .. } => code::NO_ADDRESS,
        _ => code::IO,
    };
    CniError::new(code, error.to_string())
}

/// Loads the configuration, for the binary.
///
/// # Errors
/// [`StartError`] with all that is wrong in the file.
pub fn load(path: &Path) -> Result<Config, StartError> {
    Config::load(path).map_err(start_error)
}
