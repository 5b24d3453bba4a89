//! Our end of a NIC's wire: a datagram for each frame.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_core::MacAddr;

use super::LIMIT;
use crate::process::POLL;

/// Longer than any frame.
const LONGEST: usize = 1 << 16;

/// Our end of a NIC's wire.
pub struct Wire {
    mac: MacAddr,
    ours: PathBuf,
    theirs: PathBuf,
    socket: UnixDatagram,
}

impl Wire {
    /// A wire to a NIC with this MAC address, whose socket will be in a directory,
    /// as ours is.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(mac: MacAddr, dir: &Path, number: usize) -> Result<Self> {
        let ours = dir.join(format!("host-{number}"));
        let theirs = dir.join(format!("nic-{number}"));
        let socket =
            UnixDatagram::bind(&ours).with_context(|| format!("binding {}", ours.display()))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(Self {
            mac,
            ours,
            theirs,
            socket,
        })
    }

    /// The NIC's MAC address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Where we receive.
    #[must_use]
    pub fn ours(&self) -> &Path {
        &self.ours
    }

    /// Where the NIC is to receive.
    #[must_use]
    pub fn theirs(&self) -> &Path {
        &self.theirs
    }

    /// Sends a frame; waits while the NIC takes none.
    ///
    /// # Errors
    /// When there is no NIC, or it took none for long.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(frame, &self.theirs);
        sent.with_context(|| {
            format!(
                "sending a frame of {} bytes to NIC {}",
                frame.len(),
                self.mac
            )
        })?;
        Ok(())
    }

    /// The next frame; `None` when none comes within `limit`, 0 for one that is there.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; LONGEST];
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.socket.set_nonblocking(left.is_zero())?;
            if !left.is_zero() {
                self.socket.set_read_timeout(Some(left.max(POLL)))?;
            }
            match self.socket.recv(&mut bytes) {
                Ok(len) => {
                    bytes.truncate(len);
                    self.socket.set_nonblocking(false)?;
                    return Ok(Some(bytes));
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if left.is_zero() => {
                        self.socket.set_nonblocking(false)?;
                        return Ok(None);
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => {
                        return Err(error)
                            .with_context(|| format!("receiving from NIC {}", self.mac));
                    }
                },
            }
        }
    }
}
