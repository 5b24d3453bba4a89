//! The network configuration on a call's stdin.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::env::identifier_problem;
use super::{CniError, CniResult, Environment, Version, code};
use crate::mac::Mac;

/// Where the daemon's socket is unless `runDir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/culvert";
/// Where the daemon's state and the spool are unless `stateDir` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/culvert";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(25);

/// A parsed configuration.
///
/// Keys of other plugins and of runtimes are kept in peace; keys are found without regard to
/// case, because containerd writes Go's spelling. Keys of our own:
///
/// | key | meaning |
/// |---|---|
/// | `runDir`, `stateDir` | the daemon's directories, as in culvert.toml; both or none |
/// | `timeoutSeconds` | how long a call waits for the daemon, 1 to 300, default 25 |
#[derive(Debug, Clone, PartialEq)]
pub struct NetConf {
    /// The version that results have to have.
    pub version: Version,
    /// The network's name in the configuration list.
    pub name: String,
    /// The daemon's run directory.
    pub run_dir: PathBuf,
    /// The daemon's state directory.
    pub state_dir: PathBuf,
    /// How long a call waits for the daemon.
    pub timeout: Duration,
    object: Map<String, Value>,
}

/// What a runtime asks of ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These addresses, at most one of each IP version, and no others of theirs.
    pub addresses: Vec<IpAddr>,
    /// This MAC address for the pod's interface.
    pub mac: Option<Mac>,
}

impl NetConf {
    /// Parses what came on stdin.
    ///
    /// # Errors
    /// Code 6 for what is not JSON; code 1 for a version that is not supported; code 7 for a key
    /// of ours with a wrong value, naming both.
    pub fn parse(bytes: &[u8]) -> Result<NetConf, CniError> {
        if bytes.trim_ascii().is_empty() {
            return Err(CniError::new(
                code::DECODE,
                "the network configuration on stdin is empty",
            ));
        }
        let value = serde_json::from_slice(bytes).map_err(|error| {
            CniError::new(
                code::DECODE,
                "the network configuration on stdin is not JSON",
            )
            .with_details(error.to_string())
        })?;
        NetConf::from_value(value)
    }

    /// Reads a configuration that is JSON already.
    ///
    /// # Errors
    /// As [`NetConf::parse`].
    pub fn from_value(value: Value) -> Result<NetConf, CniError> {
        let Value::Object(object) = value else {
            return Err(CniError::new(
                code::DECODE,
                format!(
                    "the network configuration is not a JSON object but {}",
                    kind(&value)
                ),
            ));
        };
        let version = match text(&object, "cniVersion")? {
            Some(version) => Version::negotiate(version)?,
            // The specification gives configurations without a version the oldest one.
            None => Version::negotiate("0.1.0").map_err(|error| CniError {
                msg: "cniVersion is missing".into(),
                ..error
            })?,
        };
        let name = text(&object, "name")?
            .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "key \"name\" is missing"))?
            .to_owned();
        if let Some(problem) = identifier_problem(&name) {
            return Err(wrong("name", &Value::from(name), problem));
        }
        let (run_dir, state_dir) = directories(&object)?;
        let timeout = timeout(&object)?;
        Ok(NetConf {
            version,
            name,
            run_dir,
            state_dir,
            timeout,
            object,
        })
    }

    /// The configuration as it came.
    pub fn to_value(&self) -> Value {
        Value::Object(self.object.clone())
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        crate::api::socket_path(&self.run_dir)
    }

    /// Where deletions wait while the daemon is down.
    pub fn spool_dir(&self) -> PathBuf {
        crate::spool::spool_dir(&self.state_dir)
    }

    /// The address and MAC that the runtime asks for.
    ///
    /// The first of `runtimeConfig.ips`, `args.cni.ips` and `IP=` in `CNI_ARGS` that is there
    /// wins; likewise `runtimeConfig.mac` and `MAC=`. A prefix length is ignored.
    ///
    /// # Errors
    /// Code 7 or 4 for values that are no addresses, code 2 for several addresses of an IP version.
    pub fn wanted(&self, env: &Environment) -> Result<Wanted, CniError> {
        let runtime = child(&self.object, "runtimeConfig")?;
        let cni = child(&self.object, "args")?
            .map(|args| child(args, "cni"))
            .transpose()?
            .flatten();
        let addresses = match (
            list(runtime, "runtimeConfig", "ips")?,
            list(cni, "args.cni", "ips")?,
        ) {
            (Some(ips), _) => addresses("runtimeConfig.ips", ips)?,
            (None, Some(ips)) => addresses("args.cni.ips", ips)?,
            (None, None) => match env.arg("IP") {
                Some(ip) if !ip.is_empty() => vec![argument_address(ip)?],
                _ => Vec::new(),
            },
        };
        let runtime_mac = match runtime {
            Some(runtime) => text(runtime, "mac")?,
            None => None,
        };
        let mac = match (runtime_mac, env.arg("MAC")) {
            (Some(mac), _) => Some(parse_mac("runtimeConfig.mac", mac, code::INVALID_CONFIG)?),
            (None, Some(mac)) if !mac.is_empty() => {
                Some(parse_mac("CNI_ARGS MAC", mac, code::INVALID_ENVIRONMENT)?)
            }
            _ => None,
        };
        Ok(Wanted { addresses, mac })
    }

    /// The result of the plugins before this one, or of ADD for CHECK.
    ///
    /// # Errors
    /// Code 7 if it is there and not a result.
    pub fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        match get(&self.object, "prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => CniResult::from_value(value).map(Some),
        }
    }

    /// GC: the attachments that are to stay, as (container id, interface name).
    ///
    /// # Errors
    /// Code 7 if the list is missing (which never means "none") or malformed.
    pub fn valid_attachments(&self) -> Result<Vec<(String, String)>, CniError> {
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let found = KEYS
            .iter()
            .find_map(|key| get(&self.object, key).map(|value| (*key, value)));
        let (key, value) = found.ok_or_else(|| {
            CniError::new(
                code::INVALID_CONFIG,
                format!("GC needs the key {:?}", KEYS[0]),
            )
        })?;
        let entry = |entry: &Value| {
            let entry = entry.as_object()?;
            let field = |name| get(entry, name).and_then(Value::as_str).map(str::to_owned);
            Some((field("containerID")?, field("ifname")?))
        };
        let list = value
            .as_array()
            .and_then(|list| list.iter().map(entry).collect());
        list.ok_or_else(|| wrong(key, value, "is not a list of {\"containerID\", \"ifname\"}"))
    }
}

/// Finds `key`; its exact spelling wins over other cases.
fn get<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| {
        object
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
    })
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, CniError> {
    match get(object, key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(key, other, "is not a string")),
    }
}

fn child<'a>(
    object: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, CniError> {
    match get(object, key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(child)) => Ok(Some(child)),
        Some(other) => Err(wrong(key, other, "is not an object")),
    }
}

/// A list that is not empty.
fn list<'a>(
    parent: Option<&'a Map<String, Value>>,
    parent_name: &str,
    key: &str,
) -> Result<Option<&'a [Value]>, CniError> {
    match parent.and_then(|parent| get(parent, key)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.as_slice()).filter(|list| !list.is_empty())),
        Some(other) => Err(wrong(
            &format!("{parent_name}.{key}"),
            other,
            "is not a list",
        )),
    }
}

fn directories(object: &Map<String, Value>) -> Result<(PathBuf, PathBuf), CniError> {
    let path = |key| match text(object, key)? {
        Some(path) if !path.starts_with('/') || path.contains('\0') => {
            Err(wrong(key, &Value::from(path), "is not an absolute path"))
        }
        path => Ok(path),
    };
    match (path("runDir")?, path("stateDir")?) {
        (Some(run), Some(state)) => Ok((run.into(), state.into())),
        (None, None) => Ok((DEFAULT_RUN_DIR.into(), DEFAULT_STATE_DIR.into())),
        // With one only, deletions could be spooled for a daemon that is not the one asked.
        (run, _) => {
            let (given, missing) = if run.is_some() {
                ("runDir", "stateDir")
            } else {
                ("stateDir", "runDir")
            };
            Err(CniError::new(
                code::INVALID_CONFIG,
                format!("key {given:?} is set and {missing:?} is not"),
            )
            .with_details("set both to the values of the daemon's culvert.toml, or none"))
        }
    }
}

fn timeout(object: &Map<String, Value>) -> Result<Duration, CniError> {
    match get(object, "timeoutSeconds") {
        None | Some(Value::Null) => Ok(DEFAULT_TIMEOUT),
        Some(value) => match value.as_u64() {
            Some(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
            _ => Err(wrong(
                "timeoutSeconds",
                value,
                "is not a whole number from 1 to 300",
            )),
        },
    }
}

fn addresses(key: &str, list: &[Value]) -> Result<Vec<IpAddr>, CniError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for value in list {
        let address = value.as_str().and_then(parse_address);
        let address = address.ok_or_else(|| wrong(key, value, "is not an IP address"))?;
        let like = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        if addresses.iter().any(like) {
            return Err(CniError::new(
                code::UNSUPPORTED_FIELD,
                format!(
                    "{key} {}: one address of each IP version can be asked for, not several",
                    Value::from(list.to_vec())
                ),
            ));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn argument_address(text: &str) -> Result<IpAddr, CniError> {
    parse_address(text).ok_or_else(|| {
        CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("CNI_ARGS IP {text:?} is not an IP address"),
        )
    })
}

fn parse_address(text: &str) -> Option<IpAddr> {
    match text.split_once('/') {
        None => text.parse().ok(),
        Some(_) => text.parse::<ipnet::IpNet>().ok().map(|net| net.addr()),
    }
}

fn parse_mac(key: &str, text: &str, code: u32) -> Result<Mac, CniError> {
    let mac: Mac = text
        .parse()
        .map_err(|error| CniError::new(code, format!("{key}: {error}")))?;
    match mac.problem() {
        None => Ok(mac),
        Some(problem) => Err(CniError::new(code, format!("{key} {mac} {problem}"))),
    }
}

fn wrong(key: &str, value: &Value, problem: &str) -> CniError {
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(80) {
        shown.truncate(end);
        shown.push('…');
    }
    CniError::new(
        code::INVALID_CONFIG,
        format!("key {key:?}: {shown} {problem}"),
    )
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "netconf_tests.rs"]
mod tests;
