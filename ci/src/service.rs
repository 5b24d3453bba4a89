//! Commands of a lab that go on in the background.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::process::wait_for;
use crate::site::Site;

/// Numbers the log files of background commands.
static SERVICES: AtomicU32 = AtomicU32::new(0);

/// A command in the background; it is killed when this is dropped.
#[derive(Debug)]
pub struct Service {
    site: Arc<Site>,
    pid: Option<u32>,
    log: PathBuf,
}

impl Lab {
    /// Starts a command in the background and waits until `ready` is in what
    /// it prints.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not print it within 10 s, or the
    /// place is in a guest, see [`crate::Guest::shell`].
    pub fn spawn(
        &self,
        place: &str,
        argv: &[&str],
        ready: impl Fn(&str) -> bool,
    ) -> Result<Service> {
        ensure!(
            self.guest_at(place).is_none(),
            "{place} is in a guest, whose processes the lab does not watch"
        );
        let number = SERVICES.fetch_add(1, Ordering::Relaxed);
        let log = self.log(&format!("{place}-{number}"));
        let pid = self.site().background(place, argv, &log)?;
        let service = Service {
            site: Arc::clone(self.site()),
            pid: Some(pid),
            log,
        };
        let name = format!("`{}` in {place} ready", argv.join(" "));
        wait_for(&name, Duration::from_secs(10), || {
            if ready(&service.printed()) {
                return Ok(Some(()));
            }
            match self.site().ended(pid)? {
                Some(status) => bail!("{name}: it ended with {status}: {}", service.printed()),
                None => Ok(None),
            }
        })?;
        Ok(service)
    }
}

impl Service {
    /// What it has printed so far, output and errors together.
    #[must_use]
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for it to end by itself, successfully, and returns what it printed.
    ///
    /// # Errors
    /// When it fails or goes on for longer than `limit` (it is killed then).
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let pid = self.pid.context("it was ended already")?;
        let status = self.site.wait(pid, limit)?;
        self.pid = None;
        ensure!(
            status.success(),
            "it ended with {status}: {}",
            self.printed()
        );
        Ok(self.printed())
    }

    /// Ends it with `signal` and returns what it printed.
    ///
    /// # Errors
    /// When it did not end in time and had to be killed.
    pub fn stop(mut self, signal: Signal) -> Result<String> {
        if let Some(pid) = self.pid.take() {
            self.site.end(pid, signal)?;
        }
        Ok(self.printed())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // With its lab taken down it is gone already.
            let _ = self.site.end(pid, Signal::SIGKILL);
        }
    }
}
