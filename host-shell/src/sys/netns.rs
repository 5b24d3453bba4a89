//! Handles of network namespaces, and running code inside one.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Why a network namespace could not be opened, or nothing could be run in it.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// Nothing is at the path.
    #[error("network namespace {} does not exist", path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Something else than a network namespace is at the path.
    #[error("{} is not a network namespace: it is {what}", path.display())]
    NotANetNs {
        /// The path as it was given.
        path: PathBuf,
        /// What is there instead.
        what: &'static str,
    },
    /// This process may not open the path.
    #[error("no permission to open the network namespace {}: run as root", path.display())]
    Permission {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path could not be opened for another reason.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace is open, but this process may not or cannot enter it.
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Enter {
        /// The path by which the namespace was opened.
        path: PathBuf,
        /// What the kernel said; `EPERM` without CAP_SYS_ADMIN.
        source: io::Error,
    },
    /// The thread that was to enter the namespace could not be started.
    #[error("cannot start a thread for the network namespace {}: {source}", path.display())]
    Thread {
        /// The path by which the namespace was opened.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The code that ran in the namespace panicked.
    #[error("panic in the network namespace {}: {message}", path.display())]
    Panicked {
        /// The path by which the namespace was opened.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
}

/// What tells one namespace from another, by whatever path it was opened.
///
/// A number is used again after its namespace is gone: compare with that of a
/// [`NetNs`] that is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    /// Device number of the namespace filesystem.
    pub dev: u64,
    /// Inode number in it.
    pub ino: u64,
}

/// An open network namespace; it lives at least as long as this handle.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
    id: NetNsId,
}

/// The ioctls, which nix makes public functions of.
mod ioctl {
    nix::ioctl_none_bad!(ns_get_nstype, libc::NS_GET_NSTYPE);
}

impl NetNs {
    /// Opens the namespace at `path`, such as `/run/netns/blue` or
    /// `/proc/1/ns/net`.
    ///
    /// # Errors
    /// See [`NetNsError`]. A file that once was a namespace and no longer is one
    /// (the empty file that is left when it was unmounted) is `NotANetNs`.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        // O_PATH looks without opening: a FIFO would block and a device could do anything.
        let probe = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)
            .map_err(|source| open_error(path, source))?;
        let filesystem =
            fstatfs(&probe).map_err(|errno| open_error(path, io::Error::from(errno)))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(NetNsError::NotANetNs {
                path: path.to_owned(),
                what: kind_of(&probe).map_err(|source| open_error(path, source))?,
            });
        }
        let file = File::open(format!("/proc/self/fd/{}", probe.as_raw_fd()))
            .map_err(|source| open_error(path, source))?;
        // SAFETY: the ioctl takes no argument and `file` is an open namespace descriptor.
        let kind = unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) }
            .map_err(|errno| open_error(path, io::Error::from(errno)))?;
        if kind != libc::CLONE_NEWNET {
            return Err(NetNsError::NotANetNs {
                path: path.to_owned(),
                what: "a namespace of another kind",
            });
        }
        let metadata = file.metadata().map_err(|source| open_error(path, source))?;
        Ok(Self {
            id: NetNsId {
                dev: metadata.dev(),
                ino: metadata.ino(),
            },
            path: path.to_owned(),
            file,
        })
    }

    /// Opens the namespace that the calling thread is in.
    ///
    /// # Errors
    /// See [`NetNsError`]; in practice only when `/proc` is not mounted.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace's identity, equal for two handles of one namespace.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// The path by which it was opened; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` on a new thread that has entered the namespace, and waits for it.
    ///
    /// No other thread changes its namespace. What `f` opens (sockets, TAP
    /// devices) stays in the namespace when it is used elsewhere.
    ///
    /// # Errors
    /// [`NetNsError::Enter`] when the kernel does not let this process in;
    /// [`NetNsError::Panicked`] when `f` panicked, in builds that unwind (where
    /// panics abort, the process ends as with any other panic).
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        let path = || self.path.clone();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| f())
                })
                .map_err(|source| NetNsError::Thread {
                    path: path(),
                    source,
                })?;
            match thread.join() {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(errno)) => Err(NetNsError::Enter {
                    path: path(),
                    source: errno.into(),
                }),
                Err(panic) => Err(NetNsError::Panicked {
                    path: path(),
                    message: panic_message(panic.as_ref()),
                }),
            }
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for NetNs {}

fn open_error(path: &Path, source: io::Error) -> NetNsError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => NetNsError::NotFound { path },
        io::ErrorKind::PermissionDenied => NetNsError::Permission { path },
        _ => NetNsError::Open { path, source },
    }
}

fn kind_of(file: &File) -> io::Result<&'static str> {
    let metadata = file.metadata()?;
    Ok(if metadata.is_dir() {
        "a directory"
    } else if metadata.is_file() && metadata.len() == 0 {
        "an empty file, as is left behind when a namespace is gone"
    } else if metadata.is_file() {
        "an ordinary file"
    } else {
        "a device, pipe or socket"
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "(no message)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_says_what_is_wrong() {
        let error = |path: &str| NetNs::open(Path::new(path)).unwrap_err();
        assert!(matches!(
            error("/run/netns/no-such-namespace"),
            NetNsError::NotFound { .. }
        ));
        assert!(matches!(
            error("/etc/passwd"),
            NetNsError::NotANetNs {
                what: "an ordinary file",
                ..
            }
        ));
        assert!(matches!(error("/etc/passwd/x"), NetNsError::Open { .. }));
        assert!(matches!(
            error("/tmp"),
            NetNsError::NotANetNs {
                what: "a directory",
                ..
            }
        ));
        assert!(matches!(error("/dev/null"), NetNsError::NotANetNs { .. }));
        assert!(matches!(error(""), NetNsError::NotFound { .. }));
        let other = error("/proc/self/ns/mnt");
        assert_eq!(
            other.to_string(),
            "/proc/self/ns/mnt is not a network namespace: it is a namespace of another kind"
        );
    }

    #[test]
    fn a_pipe_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            NetNs::open(&path).unwrap_err(),
            NetNsError::NotANetNs { .. }
        ));
    }

    #[test]
    fn one_namespace_is_equal_by_any_path() {
        let here = NetNs::current().unwrap();
        let same = NetNs::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(here, same);
        assert_eq!(here.id(), same.id());
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let here = NetNs::current().unwrap();
        let error = here.run(|| panic!("broken {}", 7)).unwrap_err();
        assert!(error.to_string().ends_with(": broken 7"), "{error}");
        assert_eq!(here.run(|| 5).unwrap(), 5);
    }
}
