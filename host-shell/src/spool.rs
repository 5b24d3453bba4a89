//! Deletions that wait on disk while the daemon is down.
//!
//! A DEL that fails leaves a pod stuck for good, so the plugin writes it into `state_dir/spool`
//! and succeeds. No deletion is lost between the two programs if both keep this order:
//!
//! - the daemon binds its socket, then reads the spool and carries it out, then serves;
//! - the plugin fails to reach the daemon, writes its file, then tries once more to reach it.
//!
//! A file that the daemon's reading missed was renamed after the socket was bound, and so the
//! plugin's second try gets through, or waits for a daemon that does not answer. Deletions can be
//! repeated without harm as long as the attachment has not been added again: ADD carries out what
//! waits for its own attachment first, so that an old file never meets a new attachment.
//!
//! A daemon that tells an appliance its tables asks for deletions to be tried again. The plugin
//! spools those too, and the daemon reads the spool once more when the appliance has its tables.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::CniRequest;

/// A temporary file older than this belongs to a plugin that died while writing.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Why the spool could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {} failed: {source}", .path.display())]
pub struct SpoolError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A file found in the spool.
#[derive(Debug)]
pub struct Entry {
    /// Where it is; to be given to [`remove`] when it has been dealt with.
    pub path: PathBuf,
    /// The deletion, or what is wrong with the file.
    pub request: Result<CniRequest, String>,
}

/// Where deletions wait for a daemon with this state directory.
pub fn spool_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("spool")
}

/// Puts a deletion into the spool and returns the file's path once it is safe on disk.
///
/// # Errors
/// If directory or file cannot be made or written; nothing is left then.
pub fn write(dir: &Path, request: &CniRequest) -> Result<PathBuf, SpoolError> {
    // Both directories hold the daemon's state: nobody else needs to look into them.
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("creating", dir))?;
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // The time comes first, so that files sort in the order in which they were written.
    let name = format!("{:020}-{}", since_epoch.as_nanos(), process::id());
    let temporary = dir.join(format!("{name}.tmp"));
    let path = dir.join(format!("{name}.json"));
    let written = write_synced(&temporary, request)
        .and_then(|()| fs::rename(&temporary, &path))
        .and_then(|()| File::open(dir)?.sync_all());
    if let Err(source) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed("writing", &path)(source));
    }
    Ok(path)
}

fn write_synced(path: &Path, request: &CniRequest) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(request)?)?;
    file.sync_all()
}

/// Reads the spool, oldest first; a missing directory is an empty spool.
///
/// Files that are not understood come as entries too: report them, then [`remove`] them.
///
/// # Errors
/// If the directory cannot be listed.
pub fn read(dir: &Path) -> Result<Vec<Entry>, SpoolError> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("listing", dir)(source)),
    };
    let mut entries = Vec::new();
    for item in listing {
        let path = item.map_err(failed("listing", dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => entries.push(Entry {
                request: read_one(&path),
                path,
            }),
            Some("tmp") if is_abandoned(&path) => {
                let _ = fs::remove_file(&path);
            }
            _ => {}
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn read_one(path: &Path) -> Result<CniRequest, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let request: CniRequest = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    match request.environment.command() {
        crate::cni::Command::Del => Ok(request),
        other => Err(format!("it holds {other}, only DEL may wait in the spool")),
    }
}

fn is_abandoned(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED))
}

/// Removes an entry that has been dealt with; one that is gone already is fine.
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing", path)(error))
        }
        _ => Ok(()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError + use<> {
    let path = path.to_owned();
    move |source| SpoolError { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Environment;

    fn request(command: &str, id: &str) -> CniRequest {
        let environment = Environment::from_vars(|name| match name {
            "CNI_COMMAND" => Some(command.into()),
            "CNI_CONTAINERID" => Some(id.into()),
            "CNI_IFNAME" => Some("eth0".into()),
            "CNI_NETNS" => Some("/n".into()),
            _ => None,
        });
        CniRequest {
            environment: environment.unwrap(),
            config: serde_json::json!({"name": "pods"}),
        }
    }

    #[test]
    fn deletions_come_back_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("a/spool");
        assert!(read(&spool).unwrap().is_empty());
        for id in ["b", "a", "c"] {
            write(&spool, &request("DEL", id)).unwrap();
        }
        let entries = read(&spool).unwrap();
        let ids: Vec<_> = entries
            .iter()
            .map(|entry| {
                entry
                    .request
                    .as_ref()
                    .unwrap()
                    .environment
                    .container_id()
                    .to_owned()
            })
            .collect();
        assert_eq!(ids, ["b", "a", "c"]);
        for entry in &entries {
            remove(&entry.path).unwrap();
            remove(&entry.path).unwrap();
        }
        assert!(read(&spool).unwrap().is_empty());
    }

    #[test]
    fn broken_files_are_reported_and_half_written_ones_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let good = write(dir.path(), &request("DEL", "a")).unwrap();
        fs::write(dir.path().join("1.json"), "{\"env").unwrap();
        fs::write(
            dir.path().join("2.json"),
            serde_json::to_vec(&request("ADD", "a")).unwrap(),
        )
        .unwrap();
        fs::write(dir.path().join("3.tmp"), "{").unwrap();
        let entries = read(dir.path()).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(
            entries
                .iter()
                .filter(|entry| entry.request.is_err())
                .count(),
            2
        );
        assert!(
            entries
                .iter()
                .any(|entry| entry.path == good && entry.request.is_ok())
        );
        assert!(dir.path().join("3.tmp").exists());
    }

    #[test]
    fn a_spool_that_cannot_be_written_says_where() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("spool"), "a file").unwrap();
        let error = write(&dir.path().join("spool"), &request("DEL", "a")).unwrap_err();
        assert!(error.to_string().contains("spool"), "{error}");
    }
}
