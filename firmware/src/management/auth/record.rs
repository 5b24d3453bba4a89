//! Messages on a TCP connection, each behind its length, and the stream in them.

use culvert_core::channel::noise::{LENGTH_LEN, MAX_RECORD, TAG_LEN};
use smoltcp::socket::tcp::{Socket, State as TcpState};

use super::noise::{Noise, Refused};
use crate::control::Stream;

/// Bytes of the stream in a message that is sent: both sides' buffers hold some.
const PAYLOAD: usize = 1_024;
/// Bytes of the longest message that is sent, its length included.
const SEALED: usize = LENGTH_LEN + PAYLOAD + TAG_LEN;

/// What a message said that is not read yet.
pub(super) struct Opened {
    record: [u8; MAX_RECORD],
    payload: [u8; MAX_RECORD],
    /// Where in `payload` the next byte is, and where it ends.
    next: usize,
    end: usize,
}

/// The message that is being sent.
pub(super) struct Sealed([u8; SEALED - LENGTH_LEN]);

/// The next message in what a socket has received, when it is whole.
///
/// # Errors
/// [`Refused`] when it is longer than `record`, or the connection ends before it does.
pub(super) fn take<'r>(
    socket: &mut Socket<'static>,
    record: &'r mut [u8],
) -> Result<Option<&'r [u8]>, Refused> {
    let mut length = [0; LENGTH_LEN];
    let received = socket.recv_queue();
    let is_whole = received >= LENGTH_LEN && {
        let read = socket.peek_slice(&mut length);
        let length = usize::from(u16::from_be_bytes(length));
        if read != Ok(LENGTH_LEN) || length > record.len() || length < TAG_LEN {
            return Err(Refused);
        }
        received >= LENGTH_LEN + length
    };
    if !is_whole {
        // Nothing comes any more behind a half message.
        let ends = received > 0 && socket.state() == TcpState::CloseWait;
        return if ends { Err(Refused) } else { Ok(None) };
    }
    let len = usize::from(u16::from_be_bytes(length));
    let record = record.get_mut(..len).ok_or(Refused)?;
    for part in [&mut length[..], &mut *record] {
        if socket.recv_slice(part) != Ok(part.len()) {
            return Err(Refused);
        }
    }
    Ok(Some(record))
}

/// Sends a message.
///
/// # Errors
/// [`Refused`] when the socket has no room for all of it, or is closed.
pub(super) fn put(socket: &mut Socket<'static>, record: &[u8]) -> Result<(), Refused> {
    let length = u16::try_from(record.len()).map_err(|_| Refused)?;
    for part in [&length.to_be_bytes()[..], record] {
        if socket.send_slice(part) != Ok(part.len()) {
            return Err(Refused);
        }
    }
    Ok(())
}

impl Opened {
    pub(super) const fn new() -> Self {
        Opened {
            record: [0; MAX_RECORD],
            payload: [0; MAX_RECORD],
            next: 0,
            end: 0,
        }
    }

    /// Decrypts a socket's next message, and forgets the one before; returns whether
    /// there was one.
    pub(super) fn take(
        &mut self,
        socket: &mut Socket<'static>,
        noise: &mut Noise,
    ) -> Result<bool, Refused> {
        let Some(record) = take(socket, &mut self.record)? else {
            return Ok(false);
        };
        let len = noise.open(record, &mut self.payload)?;
        (self.next, self.end) = (0, len);
        Ok(true)
    }
}

impl Sealed {
    pub(super) const fn new() -> Self {
        Sealed([0; SEALED - LENGTH_LEN])
    }
}

/// The stream of bytes in a connection's messages.
pub(super) struct Wire<'w> {
    pub(super) socket: &'w mut Socket<'static>,
    pub(super) noise: &'w mut Noise,
    pub(super) opened: &'w mut Opened,
    pub(super) sealed: &'w mut Sealed,
    /// Whether a message was not of the host's making, or none can be sent any more.
    pub(super) is_broken: bool,
}

impl Stream for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.opened.next == self.opened.end {
            let taken = self.opened.take(self.socket, self.noise);
            self.is_broken |= taken.is_err();
        }
        let Opened {
            payload, next, end, ..
        } = &mut *self.opened;
        let payload = payload.get(*next..*end).unwrap_or_default();
        let mut read = 0;
        for (to, from) in bytes.iter_mut().zip(payload) {
            *to = *from;
            read += 1;
        }
        *next += read;
        read
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        for payload in bytes.chunks(PAYLOAD) {
            let room = self.socket.send_capacity() - self.socket.send_queue();
            // A closed socket takes nothing, which its owner finds out by its state.
            if room < SEALED || !self.socket.may_send() {
                break;
            }
            let sealed = self.noise.seal(payload, &mut self.sealed.0);
            let sent = sealed.and_then(|len| {
                let record = self.sealed.0.get(..len).ok_or(Refused)?;
                put(self.socket, record)
            });
            if sent.is_err() {
                self.is_broken = true;
                break;
            }
            written += payload.len();
        }
        written
    }
}
