//! A serial line as a byte stream.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open serial line. Nothing but its bytes is changed: speed and parity are as
/// `stty` left them.
#[derive(Debug)]
pub struct Serial {
    file: AsyncFd<File>,
}

impl Serial {
    /// Opens the line, for this process alone among those that do likewise, and makes
    /// it pass bytes as they are.
    ///
    /// # Errors
    /// When it is not there, is no terminal, or another `Serial` has it.
    pub fn open(path: &Path) -> io::Result<Serial> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)?;
        // Not TIOCEXCL, which does not keep root out.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::other("another process has this line; stop it first")
            }
            TryLockError::Error(error) => error,
        })?;
        let mut settings = tcgetattr(&file)?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        // SAFETY: a `File` keeps the one descriptor that it has until it is dropped.
        let file = unsafe { AsyncFd::register(file) }?;
        Ok(Serial { file })
    }
}

impl AsyncRead for Serial {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.file.poll_read_ready(context))?;
            let into = buffer.initialize_unfilled();
            if let Ok(read) = guard.try_io(|file| file.get_ref().read(into)) {
                return Poll::Ready(read.map(|read| buffer.advance(read)));
            }
        }
    }
}

impl AsyncWrite for Serial {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.file.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|file| file.get_ref().write(bytes)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_line_has_one_owner() {
        let pair = openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pair.slave).unwrap();
        let line = Serial::open(&path).unwrap();
        let refused = Serial::open(&path).unwrap_err().to_string();
        assert!(refused.contains("another process"), "{refused}");
        drop(line);
        Serial::open(&path).unwrap();
    }

    #[tokio::test]
    async fn every_byte_goes_through_as_it_is() {
        let pair = openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pair.slave).unwrap();
        let mut line = Serial::open(&path).unwrap();
        let mut other = File::from(pair.master);
        let all: Vec<u8> = (0..=255).collect();
        line.write_all(&all).await.unwrap();
        let mut seen = vec![0; all.len()];
        other.read_exact(&mut seen).unwrap();
        assert_eq!(seen, all);
        other.write_all(&all).unwrap();
        let mut seen = vec![0; all.len()];
        line.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, all);
    }
}
