//! Receiving tunnel packets: one a slot, also where the kernel has joined many.

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::ops::Range;

use culvert_core::{Checksum, Outer, OuterL4, Segmentation};

use crate::dataplane::buffers::{BATCH, Inbound, LARGEST, Received};
use crate::dataplane::{ShellCounter, ShellCounters};
use crate::sys::socket::{self, PeerErrors, RecvBatch, Socket, SocketKind};

/// Datagrams received one by one after which the next is no longer expected to be a train.
const SINGLES: u8 = 8;

/// Slots that are still free.
type Slots<'s> = heapless::Vec<&'s mut [u8], BATCH>;

/// Where datagrams come from.
pub(super) struct From<'f> {
    pub(super) socket: &'f Socket,
    pub(super) batch: &'f mut RecvBatch,
    pub(super) errors: &'f mut PeerErrors,
    pub(super) counters: &'f ShellCounters,
}

impl From<'_> {
    /// One datagram a slot, until none waits or the batch is full.
    pub(super) fn receive(&mut self, inbound: &mut Inbound<'_>) -> io::Result<()> {
        let frames = inbound.frames();
        let all = self.socket.recv_batch(self.batch, frames, self.errors)?;
        for datagram in all {
            if datagram.truncated {
                self.counters.add(ShellCounter::UnderlayRxTruncated, 1);
            }
            inbound.push(received(self.socket, datagram, datagram.len));
        }
        Ok(())
    }
}

/// Receives trains: datagrams of one flow and size that the kernel hands over in one
/// piece (`UDP_GRO`).
///
/// The core wants each in a buffer of its own, with room in front of it. As one train is
/// mostly like the one before, the next is received straight into slots, cut at that
/// one's size; only one of another size is copied to where it belongs.
pub(super) struct Trains {
    /// The size of the datagrams of the latest train, 0 when none is expected.
    expected: usize,
    /// How many they were.
    count: usize,
    /// Datagrams one by one since then.
    singles: u8,
    /// A train that is not as expected is laid out in the first half; what has no slot
    /// is received to the second one.
    beside: Box<[u8]>,
    /// What of `beside` the next batch is.
    left: Option<Left>,
}

/// Datagrams that had no slot.
struct Left {
    range: Range<usize>,
    size: usize,
    all: socket::Received,
}

impl Trains {
    pub(super) fn new() -> Self {
        Trains {
            expected: 0,
            count: 1,
            singles: 0,
            beside: vec![0; 2 * LARGEST].into_boxed_slice(),
            left: None,
        }
    }

    /// Whether datagrams wait that no descriptor tells of.
    pub(super) fn has_left(&self) -> bool {
        self.left.is_some()
    }

    /// Receives until no datagram waits or the batch is full.
    ///
    /// # Errors
    /// What the kernel says when it is not a peer's error.
    pub(super) fn receive(
        &mut self,
        from: &mut From<'_>,
        inbound: &mut Inbound<'_>,
    ) -> io::Result<()> {
        let mut slots: Slots<'_> = inbound.frames().collect();
        let mut used = self.take_left(from.socket, &mut slots, inbound);
        let had_left = used > 0;
        while let Some(free) = slots.get_mut(used..).filter(|free| !free.is_empty()) {
            // The next train may well be as long, and is copied where it has no slots.
            if used > 0 && (had_left || free.len() < self.count) {
                inbound.stop_early();
                break;
            }
            let Some(all) = self.receive_train(from, free)? else {
                break;
            };
            if all.truncated {
                from.counters.add(ShellCounter::UnderlayRxTruncated, 1);
            }
            used += self.settle(from.socket, &all, free, inbound);
        }
        Ok(())
    }

    /// One train or datagram, cut into the slots as expected.
    fn receive_train(
        &mut self,
        from: &mut From<'_>,
        free: &mut [&mut [u8]],
    ) -> io::Result<Option<socket::Received>> {
        let mut pieces = heapless::Vec::<IoSliceMut<'_>, { BATCH + 1 }>::new();
        let (slots, size) = match self.expected {
            0 => (1, LARGEST),
            size => (BATCH, size),
        };
        let cut = free.iter_mut().take(slots);
        pieces.extend(cut.filter_map(|slot| slot.get_mut(..size).map(IoSliceMut::new)));
        if let Some(rest) = self.beside.get_mut(LARGEST..) {
            // There is a place for it behind those of a batch.
            let _ = pieces.push(IoSliceMut::new(rest));
        }
        from.socket
            .recv_scattered(from.batch, &mut pieces, from.errors)
    }

    /// Says what is in the slots after [`Trains::receive_train`], or brings it there;
    /// gives how many slots are used.
    fn settle(
        &mut self,
        socket: &Socket,
        all: &socket::Received,
        free: &mut [&mut [u8]],
        inbound: &mut Inbound<'_>,
    ) -> usize {
        let size = all.segment.map_or(all.len, NonZeroUsize::get);
        let (slots, cut) = match self.expected {
            0 => (1, LARGEST),
            expected => (free.len(), expected),
        };
        self.expect(all, size);
        let in_slots = (slots * cut).min(all.len);
        let in_place = match size < all.len {
            true => size == cut,
            false => all.len <= cut,
        };
        if !in_place {
            self.lay_out(all.len, cut, free);
            self.left = Some(Left {
                range: 0..all.len,
                size,
                all: *all,
            });
            return self.take_left(socket, free, inbound);
        }
        if in_slots < all.len {
            self.left = Some(Left {
                range: LARGEST..LARGEST + (all.len - in_slots),
                size,
                all: *all,
            });
        }
        inbound.push(received(socket, all, size.min(in_slots)));
        let mut at = size;
        let mut used = 1;
        while at < in_slots {
            let len = size.min(in_slots - at);
            inbound.push(received(socket, all, len));
            at += len;
            used += 1;
        }
        used
    }

    /// Learns what to expect.
    fn expect(&mut self, all: &socket::Received, size: usize) {
        if all.segment.is_some() && size < all.len {
            self.expected = size;
            self.count = all.len.div_ceil(size);
            self.singles = 0;
        } else if self.singles < SINGLES {
            self.singles += 1;
        } else {
            self.expected = 0;
            self.count = 1;
        }
    }

    /// Copies what was received, `len` octets in pieces of `cut`, to one place.
    fn lay_out(&mut self, len: usize, cut: usize, free: &[&mut [u8]]) {
        let (line, rest) = self.beside.split_at_mut(LARGEST);
        let mut line = line.get_mut(..len).unwrap_or_default();
        let slots = free.iter().filter_map(|slot| slot.get(..cut));
        // Where one slot took all, what it did not take is behind that one.
        let slots = slots.take(if cut == LARGEST { 1 } else { BATCH });
        for piece in slots.chain([&*rest]) {
            let taken = piece.len().min(line.len());
            let (here, behind) = line.split_at_mut(taken);
            here.copy_from_slice(&piece[..taken]);
            line = behind;
        }
    }

    /// Copies what had no slot to slots; gives how many are used.
    fn take_left(
        &mut self,
        socket: &Socket,
        free: &mut [&mut [u8]],
        inbound: &mut Inbound<'_>,
    ) -> usize {
        let Some(mut left) = self.left.take() else {
            return 0;
        };
        let mut used = 0;
        for slot in free {
            let len = left.size.min(left.range.len());
            let (Some(to), Some(bytes)) = (
                slot.get_mut(..len),
                self.beside.get(left.range.start..left.range.start + len),
            ) else {
                break;
            };
            if len == 0 {
                break;
            }
            to.copy_from_slice(bytes);
            inbound.push(received(socket, &left.all, len));
            left.range.start += len;
            used += 1;
        }
        if !left.range.is_empty() {
            self.left = Some(left);
        }
        used
    }
}

/// What a datagram of `len` octets is for the core.
fn received(socket: &Socket, datagram: &socket::Received, len: usize) -> Received {
    let l4 = match socket.kind() {
        SocketKind::Udp => OuterL4::Udp {
            src_port: datagram.source.port(),
            dst_port: socket.local_addr().port(),
            checksum: true,
        },
        SocketKind::Ip { protocol } => OuterL4::Ip { protocol },
    };
    Received {
        start: datagram.start,
        len,
        checksum: Checksum::None,
        segmentation: Segmentation::None,
        outer: Some(Outer {
            src: datagram.source.ip(),
            dst: datagram.destination,
            l4,
            tos: datagram.tos,
            ttl: datagram.ttl,
            // A socket does not show the flag; nothing needs it on receipt.
            df: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU16;

    use super::*;
    use crate::dataplane::buffers::Buffers;
    use crate::sys::socket::{DEFAULT_TTL, Datagram, SendBatch, SocketOptions};

    /// Sends datagrams of these sizes, each with bytes of its own, in trains of so many at most.
    fn send(from: &Socket, to: &Socket, sizes: &[usize], most: usize) -> Vec<Vec<u8>> {
        let all: Vec<Vec<u8>> = sizes
            .iter()
            .zip(0usize..)
            .map(|(size, n)| (0..*size).map(|at| (n * 7 + at).to_le_bytes()[0]).collect())
            .collect();
        for train in all.chunks(most) {
            let pieces: Vec<IoSlice<'_>> = train.iter().map(|one| IoSlice::new(one)).collect();
            let segment = u16::try_from(train[0].len()).ok().and_then(NonZeroU16::new);
            let datagram = Datagram {
                pieces: &pieces,
                segment: segment.filter(|_| train.len() > 1),
                destination: to.local_addr(),
                tos: 0,
                ttl: DEFAULT_TTL,
            };
            let report =
                from.send_batch(&mut SendBatch::new(4), &[datagram], &mut PeerErrors::new(4));
            assert!(report.stop.is_none(), "{report:?}");
        }
        all
    }

    /// What a receiver that has seen earlier trains makes of all that waits.
    fn receive(trains: &mut Trains, socket: &Socket) -> Vec<Vec<u8>> {
        let mut buffers = Buffers::new();
        let (mut batch, mut errors) = (RecvBatch::new(BATCH), PeerErrors::new(4));
        let counters = ShellCounters::default();
        let mut all = Vec::new();
        loop {
            let mut from = From {
                socket,
                batch: &mut batch,
                errors: &mut errors,
                counters: &counters,
            };
            trains.receive(&mut from, &mut buffers.inbound()).unwrap();
            let more = buffers.is_full();
            let (packets, _) = buffers.packets();
            all.extend(packets.iter().map(|packet| packet.frame.bytes().to_vec()));
            if !more && !trains.has_left() {
                assert_eq!(counters.get(ShellCounter::UnderlayRxTruncated), 0);
                return all;
            }
        }
    }

    #[test]
    fn trains_of_any_size_after_any_other_arrive_as_they_were_sent() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let join = SocketOptions {
            join: true,
            ..SocketOptions::default()
        };
        let receiver = Socket::udp(any, join).unwrap();
        let sender = Socket::udp(any, SocketOptions::default()).unwrap();
        assert!(sender.can_segment());
        let mut trains = Trains::new();
        let train = |size: usize, count: usize, last: usize| {
            let mut sizes = vec![size; count];
            sizes.push(last);
            sizes
        };
        let rounds = [
            train(1000, 43, 10),   // Not expected.
            train(1000, 43, 1000), // As expected.
            train(1000, 150, 999), // Three trains: more than slots.
            train(100, 60, 7),     // Smaller than expected, all in one slot.
            train(1400, 40, 1),    // Larger than expected.
            vec![20],              // One, smaller.
            vec![9000],            // One, larger.
            train(3, 130, 2),      // Tiny ones.
            train(16_000, 2, 500), // Few large ones.
        ];
        for (sizes, number) in rounds.iter().zip(0..) {
            let sent = send(&sender, &receiver, sizes, 64);
            let got = receive(&mut trains, &receiver);
            assert_eq!(got.len(), sent.len(), "round {number}");
            assert!(got == sent, "round {number}");
        }
        // Many kinds that wait at once.
        let sent: Vec<_> = rounds
            .iter()
            .flat_map(|sizes| send(&sender, &receiver, sizes, 64))
            .collect();
        assert!(receive(&mut trains, &receiver) == sent);
        // One by one: nothing is expected any more, and nothing lost.
        let sent = send(&sender, &receiver, &[30; 200], 1);
        assert!(receive(&mut trains, &receiver) == sent);
        assert_eq!(trains.expected, 0);
    }
}
