//! The core's end of the control channel in this process.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use culvert_core::Gateway;
use culvert_core::channel::{FrameDecoder, MAX_FRAME, serve};

/// Bytes taken in at a time: about one large transaction, so that updates never
/// hold up packets for long.
const CHUNK: usize = MAX_FRAME;

/// A non-blocking stream that requests come in by and answers leave by.
pub(super) struct ControlEnd {
    stream: UnixStream,
    decoder: FrameDecoder,
    /// Answers that the stream has not taken yet.
    pending: Vec<u8>,
    chunk: Box<[u8]>,
    answer: Box<[u8]>,
}

impl ControlEnd {
    pub(super) fn new(stream: UnixStream) -> Self {
        ControlEnd {
            stream,
            decoder: FrameDecoder::new(),
            pending: Vec::with_capacity(2 * MAX_FRAME),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            answer: vec![0; MAX_FRAME].into_boxed_slice(),
        }
    }

    /// Whether answers wait for the stream to become writable. While they do no
    /// further requests are read.
    pub(super) fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Carries out what has come in, and answers.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end is closed; other errors of the stream.
    pub(super) fn turn(&mut self, gateway: &mut Gateway<'_>) -> io::Result<()> {
        self.flush()?;
        if self.is_blocked() {
            return Ok(());
        }
        let read = match self.stream.read(&mut self.chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (pending, answer) = (&mut self.pending, &mut self.answer);
        self.decoder.feed(&self.chunk[..read], |event| {
            let len = serve(gateway, &event, answer);
            pending.extend_from_slice(&answer[..len]);
        });
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for ControlEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
