//! One conversation of the control channel: requests from a stream of bytes, one at a
//! time, and answers back.

use culvert_core::channel::{FrameDecoder, FrameEvent, MAX_FRAME};

/// Bytes taken in at a time.
const CHUNK: usize = 512;

/// A stream of bytes that never waits.
pub(crate) trait Stream {
    /// As [`crate::Board::read`].
    fn read(&mut self, bytes: &mut [u8]) -> usize;
    /// As [`crate::Board::write`].
    fn write(&mut self, bytes: &[u8]) -> usize;
}

/// What has come in and is not looked at yet, and the answer that is not out yet.
pub(crate) struct Conversation {
    decoder: FrameDecoder,
    chunk: [u8; CHUNK],
    /// Where in `chunk` the next byte is, and where its last one ends.
    next: usize,
    end: usize,
    answer: [u8; MAX_FRAME],
    /// Where in `answer` the next byte is, and where it ends.
    sent: usize,
    len: usize,
}

impl Conversation {
    /// A conversation in which nothing has been said yet.
    pub(crate) const fn new() -> Self {
        Conversation {
            decoder: FrameDecoder::new(),
            chunk: [0; CHUNK],
            next: 0,
            end: 0,
            answer: [0; MAX_FRAME],
            sent: 0,
            len: 0,
        }
    }

    /// Forgets what was said: another host speaks now.
    #[cfg(feature = "management-auth")]
    pub(crate) fn restart(&mut self) {
        // An end of a frame ends what stood before it.
        let _ = self.decoder.next(&[0]);
        (self.next, self.end) = (0, 0);
        (self.sent, self.len) = (0, 0);
    }

    /// Answers one request at most: `serve` writes the framed answer and returns its
    /// length. Returns whether there was something to do. Nothing further is read
    /// while an answer finds no room, so a host that does not listen holds up itself.
    pub(crate) fn turn(
        &mut self,
        stream: &mut impl Stream,
        serve: impl FnOnce(&FrameEvent<'_>, &mut [u8]) -> usize,
    ) -> bool {
        if self.sent < self.len {
            let wrote = self.flush(stream);
            if self.sent < self.len {
                return wrote;
            }
        }
        if self.next == self.end {
            (self.next, self.end) = (0, stream.read(&mut self.chunk).min(CHUNK));
        }
        let bytes = self.chunk.get(self.next..self.end).unwrap_or_default();
        if bytes.is_empty() {
            return false;
        }
        let (taken, event) = self.decoder.next(bytes);
        self.next += taken;
        if let Some(event) = event {
            let len = serve(&event, &mut self.answer);
            (self.sent, self.len) = (0, len.min(MAX_FRAME));
            self.flush(stream);
        }
        true
    }

    /// Returns whether anything went out.
    fn flush(&mut self, stream: &mut impl Stream) -> bool {
        let rest = self.answer.get(self.sent..self.len).unwrap_or_default();
        let written = stream.write(rest);
        self.sent += written.min(rest.len());
        written > 0
    }
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::VecDeque;
    use std::vec::Vec;

    use super::*;

    /// A stream that takes so many bytes and no more.
    struct Wire {
        incoming: VecDeque<u8>,
        outgoing: Vec<u8>,
        room: usize,
    }

    impl Stream for Wire {
        fn read(&mut self, bytes: &mut [u8]) -> usize {
            let len = bytes.len().min(self.incoming.len());
            for (to, from) in bytes.iter_mut().zip(self.incoming.drain(..len)) {
                *to = from;
            }
            len
        }

        fn write(&mut self, bytes: &[u8]) -> usize {
            let len = bytes.len().min(self.room);
            self.outgoing.extend(&bytes[..len]);
            self.room -= len;
            len
        }
    }

    /// Answers a damaged frame by `len` bytes.
    fn serve(len: usize) -> impl Fn(&FrameEvent<'_>, &mut [u8]) -> usize {
        move |event, out| {
            assert_eq!(*event, FrameEvent::Damaged);
            out[..len].fill(9);
            len
        }
    }

    #[test]
    fn one_request_is_answered_at_a_time() {
        let mut wire = Wire {
            incoming: VecDeque::from([1, 0, 1, 0]),
            outgoing: Vec::new(),
            room: 100,
        };
        let mut conversation = Conversation::new();
        for answered in [1, 2] {
            assert!(conversation.turn(&mut wire, serve(1)));
            assert_eq!(wire.outgoing.len(), answered);
        }
        assert!(!conversation.turn(&mut wire, serve(1)));
    }

    #[test]
    fn who_does_not_listen_is_not_heard_either() {
        let mut wire = Wire {
            incoming: VecDeque::from([1, 0, 1, 0]),
            outgoing: Vec::new(),
            room: 3,
        };
        let mut conversation = Conversation::new();
        assert!(conversation.turn(&mut wire, serve(5)));
        for _ in 0..3 {
            assert!(!conversation.turn(&mut wire, serve(5)));
        }
        assert_eq!(wire.outgoing.len(), 3);
        wire.room = 100;
        // The rest of the first answer, and the second.
        assert!(conversation.turn(&mut wire, serve(5)));
        assert_eq!(wire.outgoing.len(), 10);
    }
}
