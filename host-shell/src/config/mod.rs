//! The daemon's two files: `culvert.toml` of this node, and the cluster file that all nodes share.
//!
//! Unknown keys are refused. All problems of a file are reported together.

mod address;
mod cluster;
mod devices;
mod management;
mod network;
mod offload;
mod underlay;
mod workers;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use cluster::{Cluster, Node};
pub use management::ManagementPort;
pub use network::{Mode, Network};
pub use offload::{ChannelAddress, Offload, PortDevice, Uplink};
pub use underlay::{UnderlayConfig, UnderlayDriver};

use crate::cni::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, ifname_problem};
use crate::dataplane::Plan;
use offload::RawOffload;
use workers::RawWorkers;

/// Longest path of a Unix socket: `sun_path` has 108 bytes and ends in a NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is not TOML of the expected form; the source shows line and column.
    #[error("{}: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: Box<toml::de::Error>,
    },
    /// Values are wrong.
    #[error("{}: {}", .path.display(), .problems.join(&format!("\n{}: ", .path.display())))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, a sentence each.
        problems: Vec<String>,
    },
}

/// This node's configuration, together with the cluster's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where this node's file is.
    pub path: PathBuf,
    /// Where the cluster file is.
    pub cluster_path: PathBuf,
    /// Directory of the socket.
    pub run_dir: PathBuf,
    /// Directory of database and spool.
    pub state_dir: PathBuf,
    /// What to log, in the language of tracing-subscriber's `Targets`: a level such as `info`, or `info,culvert_host=debug`.
    pub log: String,
    /// Name of the node's own way to the pods: the TAP that culvert makes, or in offload
    /// mode a device that is there. `None` when an appliance's node has none.
    pub device: Option<String>,
    /// How tunnel packets get to the wire where this node forwards itself.
    pub underlay: UnderlayConfig,
    /// The threads that forward; of no meaning in offload mode.
    pub workers: Plan,
    /// The appliance that forwards; `None` where this node does so itself.
    pub offload: Option<Offload>,
    /// This node's entry in the cluster file.
    pub node: Node,
    /// The cluster file.
    pub cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: String,
    cluster: PathBuf,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_log")]
    log: String,
    #[serde(default)]
    mode: DataPlane,
    host: Option<Host>,
    underlay: Option<UnderlayConfig>,
    workers: Option<RawWorkers>,
    offload: Option<RawOffload>,
}

/// Who forwards.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
enum DataPlane {
    #[default]
    Host,
    Offload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    #[serde(default = "default_device")]
    device: String,
}

fn default_device() -> String {
    "culvert0".to_owned()
}

fn default_run_dir() -> PathBuf {
    DEFAULT_RUN_DIR.into()
}

fn default_state_dir() -> PathBuf {
    DEFAULT_STATE_DIR.into()
}

fn default_log() -> String {
    "info".to_owned()
}

impl Config {
    /// Loads and checks `path` and the cluster file that it names.
    ///
    /// Relative paths in the file are relative to the file's own directory.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and all that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let mut file: File = read(path)?;
        // An empty parent, as of "culvert.toml", is the working directory.
        let directory = path.parent().unwrap_or(Path::new(""));
        let absolute =
            std::path::absolute(directory.join(".")).map_err(|source| ConfigError::Read {
                path: path.to_owned(),
                source,
            })?;
        let run_dir = absolute.join(&file.run_dir);
        let mut problems = file.problems(&run_dir);
        let workers = file.workers.take().unwrap_or_default();
        let workers = workers.check(&mut problems);
        let offload = file.offload.take();
        let offload = offload.map(|raw| raw.check(&absolute, &mut problems));
        refuse(path, problems)?;
        let cluster_path = absolute.join(&file.cluster);
        let cluster = Cluster::load(&cluster_path)?;
        let node = cluster
            .own(&file.node, path)
            .map_err(|problem| ConfigError::Invalid {
                path: cluster_path.clone(),
                problems: vec![problem],
            })?;
        let misfits = offload.as_ref().map(|offload| offload.problems_with(node));
        refuse(path, misfits.unwrap_or_default())?;
        Ok(Config {
            path: path
                .file_name()
                .map_or_else(|| path.to_owned(), |name| absolute.join(name)),
            node: node.clone(),
            cluster_path,
            run_dir,
            state_dir: absolute.join(&file.state_dir),
            log: file.log,
            underlay: file.underlay.unwrap_or_default(),
            device: match &offload {
                Some(offload) => offload.host.as_ref().map(|host| host.name.clone()),
                None => Some(file.host.map_or_else(default_device, |host| host.device)),
            },
            workers,
            offload,
            cluster,
        })
    }

    /// The other nodes of the cluster.
    pub fn peers(&self) -> impl Iterator<Item = &Node> {
        self.cluster
            .nodes
            .iter()
            .filter(|node| node.name != self.node.name)
    }
}

impl File {
    fn problems(&self, run_dir: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_mode(&mut problems);
        if let Some(Host { device }) = &self.host {
            if let Some(problem) = ifname_problem(device) {
                problems.push(format!("host.device {device:?} {problem}"));
            } else if device == "lo" {
                problems.push(
                    "host.device \"lo\" is the loopback device; choose a name of its own".into(),
                );
            }
        }
        if let Some(underlay) = &self.underlay {
            let host = self.host.as_ref().map(|host| host.device.clone());
            underlay.check(&host.unwrap_or_else(default_device), &mut problems);
        }
        if let Err(error) = self.log.parse::<tracing_subscriber::filter::Targets>() {
            problems.push(format!(
                "log {:?} is no log filter (try \"info\"): {error}",
                self.log
            ));
        }
        let socket = crate::api::socket_path(run_dir);
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            problems.push(format!(
                "run_dir is too long: the socket {} would have more than {MAX_SOCKET_PATH} bytes",
                socket.display()
            ));
        }
        for (key, path) in [
            ("cluster", &self.cluster),
            ("run_dir", &self.run_dir),
            ("state_dir", &self.state_dir),
        ] {
            if path.as_os_str().is_empty() {
                problems.push(format!("{key} is empty; set a path"));
            }
        }
        problems
    }

    /// Reports sections that are of the other mode, or missing.
    fn check_mode(&self, problems: &mut Vec<String>) {
        if self.mode == DataPlane::Offload && self.underlay.is_some() {
            problems.push(
                "[underlay] is for mode = \"host\"; in offload mode the appliance has the underlay"
                    .to_owned(),
            );
        }
        let problem = match (self.mode, &self.offload, &self.host) {
            (DataPlane::Host, Some(_), _) => {
                "[offload] is there, and mode is \"host\"; set mode = \"offload\", or remove the section"
            }
            (DataPlane::Offload, None, _) => {
                "mode is \"offload\", which needs a section [offload] that tells of the appliance"
            }
            (DataPlane::Offload, ..) if self.workers.is_some() => {
                "[workers] is for mode = \"host\"; in offload mode the appliance forwards"
            }
            (DataPlane::Offload, _, Some(_)) => {
                "[host] is for mode = \"host\"; in offload mode the node's own device is offload.host"
            }
            _ => return,
        };
        problems.push(problem.to_owned());
    }
}

/// An error of all these problems of a file, if there are any.
fn refuse(path: &Path, problems: Vec<String>) -> Result<(), ConfigError> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ConfigError::Invalid {
            path: path.to_owned(),
            problems,
        }),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod offload_tests;
#[cfg(test)]
mod tests;
