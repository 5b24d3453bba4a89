//! A split virtqueue (virtio 1.2, section 2.7) in which each buffer is one descriptor.
//!
//! What the device sees is made of atomics: it is another processor as far as memory
//! is concerned. Which buffer it returns is looked up in our own notes: one that was lent
//! to it, whole and once, or none. How many bytes it has written is its word alone, which
//! whoever pops the buffer holds against the buffer's length.

use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use zerocopy::FromZeros;

use crate::Buffer;

/// The descriptor's buffer is written by the device.
const DEVICE_WRITES: u64 = 2 << 32;
/// In the used ring: the device needs no notification.
const NO_NOTIFY: u16 = 1;

#[derive(FromZeros)]
#[repr(C, align(16))]
struct Descriptor {
    address: AtomicU64,
    /// Length in the lower half; above it 16 bits of flags, and the next one's number.
    length_and_flags: AtomicU64,
}

#[derive(FromZeros)]
#[repr(C)]
struct Available<const N: usize> {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [AtomicU16; N],
    used_event: AtomicU16,
}

#[derive(FromZeros)]
#[repr(C)]
struct UsedElement {
    id: AtomicU32,
    len: AtomicU32,
}

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Used<const N: usize> {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [UsedElement; N],
    avail_event: AtomicU16,
}

/// What driver and device share.
#[derive(FromZeros)]
#[repr(C)]
struct Rings<const N: usize> {
    descriptors: [Descriptor; N],
    available: Available<N>,
    used: Used<N>,
}

/// A buffer that the device has; all zero for none.
#[derive(FromZeros, Clone, Copy)]
struct Lent {
    address: usize,
    len: usize,
}

/// A queue's memory.
#[derive(FromZeros)]
#[repr(C)]
pub struct Memory<const N: usize> {
    rings: Rings<N>,
    /// By descriptor.
    lent: [Lent; N],
    /// Descriptors without a buffer, a stack.
    free: [u16; N],
}

/// Where a device finds a queue in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// The descriptors.
    pub descriptors: u64,
    /// The available ring, which the driver writes.
    pub available: u64,
    /// The used ring, which the device writes.
    pub used: u64,
}

/// The driver's end of a queue of `N` descriptors, a power of two.
pub struct Queue<const N: usize> {
    rings: &'static Rings<N>,
    lent: &'static mut [Lent; N],
    free: &'static mut [u16; N],
    free_len: usize,
    /// Next index in the available ring, and the one that the device has been shown.
    next: u16,
    shown: u16,
    /// Next index in the used ring, and how far it was filled when last looked at.
    taken: u16,
    filled: u16,
    /// Whether VIRTIO_F_EVENT_IDX was negotiated.
    event_index: bool,
}

impl<const N: usize> Queue<N> {
    /// Number of descriptors.
    pub const SIZE: u16 = {
        assert!(N.is_power_of_two() && N <= 1 << 15);
        #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
        let size = N as u16;
        size
    };

    /// An empty queue.
    pub fn new(memory: &'static mut Memory<N>, event_index: bool) -> Self {
        for (id, free) in (0..Self::SIZE).zip(memory.free.iter_mut()) {
            *free = id;
        }
        Queue {
            rings: &memory.rings,
            lent: &mut memory.lent,
            free: &mut memory.free,
            free_len: N,
            next: 0,
            shown: 0,
            taken: 0,
            filled: 0,
            event_index,
        }
    }

    /// Where the device finds it. Memory has the same addresses for both.
    pub fn addresses(&self) -> Addresses {
        let descriptors = &raw const self.rings.descriptors;
        let available = &raw const self.rings.available;
        let used = &raw const self.rings.used;
        Addresses {
            descriptors: descriptors.expose_provenance() as u64,
            available: available.expose_provenance() as u64,
            used: used.expose_provenance() as u64,
        }
    }

    /// Number of buffers that the device has or had and [`Queue::pop`] has not returned.
    #[inline]
    pub fn outstanding(&self) -> usize {
        N - self.free_len
    }

    /// Lends the device `len` bytes at `start` of a buffer, to be read by it. Without a
    /// free descriptor, or such bytes, the buffer comes back.
    #[inline]
    pub fn push_out(&mut self, buffer: Buffer, start: usize, len: usize) -> Result<(), Buffer> {
        self.push(buffer, start, len, 0)
    }

    /// As [`Queue::push_out`], to be written by the device from `start` on.
    #[inline]
    pub fn push_in(&mut self, buffer: Buffer, start: usize) -> Result<(), Buffer> {
        let len = buffer.len().saturating_sub(start);
        self.push(buffer, start, len, DEVICE_WRITES)
    }

    #[inline(always)]
    fn push(&mut self, buffer: Buffer, start: usize, len: usize, flags: u64) -> Result<(), Buffer> {
        let fits = len <= buffer.len() && start <= buffer.len() - len;
        let (Some(top), true, Ok(length)) =
            (self.free_len.checked_sub(1), fits, u32::try_from(len))
        else {
            return Err(buffer);
        };
        let id = self.free[top % N];
        self.free_len = top;
        let len = buffer.len();
        let address = buffer.as_mut_ptr().expose_provenance();
        let slot = usize::from(id) % N;
        self.lent[slot] = Lent { address, len };
        let descriptor = &self.rings.descriptors[slot];
        let first = (address + start) as u64;
        descriptor.address.store(first.to_le(), Ordering::Relaxed);
        let rest = u64::from(length) | flags;
        descriptor
            .length_and_flags
            .store(rest.to_le(), Ordering::Relaxed);
        self.rings.available.ring[usize::from(self.next) % N].store(id.to_le(), Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Shows the device what was pushed since the last time, and tells whether it wants
    /// to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let new = self.next.wrapping_sub(self.shown);
        if new == 0 {
            return false;
        }
        self.shown = self.next;
        // The device reads the entries behind this index after it has read the index.
        self.rings
            .available
            .index
            .store(self.next.to_le(), Ordering::Release);
        // The device says what it waits for and then looks at the index once more; here
        // it is the other way round. Without a full fence both could miss the other.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = u16::from_le(self.rings.used.avail_event.load(Ordering::Relaxed));
            self.next.wrapping_sub(event).wrapping_sub(1) < new
        } else {
            u16::from_le(self.rings.used.flags.load(Ordering::Relaxed)) & NO_NOTIFY == 0
        }
    }

    /// Takes back a buffer that the device is done with, and the bytes that it has
    /// written. Oldest first.
    #[inline]
    pub fn pop(&mut self) -> Option<(Buffer, usize)> {
        loop {
            if self.taken == self.filled {
                self.filled = u16::from_le(self.rings.used.index.load(Ordering::Acquire));
                if self.taken == self.filled {
                    return None;
                }
            }
            let element = &self.rings.used.ring[usize::from(self.taken) % N];
            self.taken = self.taken.wrapping_add(1);
            let id = u32::from_le(element.id.load(Ordering::Relaxed));
            let written = u32::from_le(element.len.load(Ordering::Relaxed));
            let slot = id as usize % N;
            let Lent { address, len } = self.lent[slot];
            if address == 0 {
                // The device does not have it: nothing that could be taken back.
                continue;
            }
            self.lent[slot].address = 0;
            #[expect(clippy::cast_possible_truncation, reason = "below N")]
            let id = slot as u16;
            self.free[self.free_len % N] = id;
            self.free_len += 1;
            let start = ptr::with_exposed_provenance_mut(address);
            // SAFETY: `push` had this buffer for itself and took address and length of
            // it; it is lent out to nobody but the device, which has returned it.
            let buffer = unsafe { slice::from_raw_parts_mut(start, len) };
            return Some((buffer, written as usize));
        }
    }

    /// Asks for an interrupt with the next buffer that the device is done with, and
    /// tells whether there is one already: an interrupt may not come for that.
    ///
    /// Without VIRTIO_F_EVENT_IDX there is an interrupt with each of them.
    #[inline]
    pub fn arm(&mut self) -> bool {
        self.rings
            .available
            .used_event
            .store(self.taken.to_le(), Ordering::Relaxed);
        // As in `publish`, with the parts exchanged.
        fence(Ordering::SeqCst);
        u16::from_le(self.rings.used.index.load(Ordering::Acquire)) != self.taken
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    const N: usize = 4;

    /// The other end of a queue.
    struct Device {
        rings: &'static Rings<N>,
        /// Next index in the available ring, and in the used ring.
        next: u16,
        used: u16,
    }

    impl Device {
        /// The next buffer that was lent: its descriptor, address and length, and
        /// whether it is to be written.
        fn next(&mut self) -> Option<(u16, usize, usize, bool)> {
            if self.next == self.rings.available.index.load(Ordering::Acquire) {
                return None;
            }
            let id = self.rings.available.ring[usize::from(self.next) % N].load(Ordering::Relaxed);
            self.next = self.next.wrapping_add(1);
            let descriptor = &self.rings.descriptors[usize::from(id)];
            let address = descriptor.address.load(Ordering::Relaxed);
            let rest = descriptor.length_and_flags.load(Ordering::Relaxed);
            let len = usize::try_from(rest & 0xffff_ffff).unwrap();
            let address = usize::try_from(address).unwrap();
            Some((id, address, len, rest & DEVICE_WRITES != 0))
        }

        fn give_back(&mut self, id: u32, len: u32) {
            let element = &self.rings.used.ring[usize::from(self.used) % N];
            element.id.store(id, Ordering::Relaxed);
            element.len.store(len, Ordering::Relaxed);
            self.used = self.used.wrapping_add(1);
            self.rings.used.index.store(self.used, Ordering::Release);
        }

        /// Wants a notification with the buffer of this index.
        fn wait_for(&self, index: u16) {
            self.rings.used.avail_event.store(index, Ordering::Relaxed);
        }
    }

    fn queue(event_index: bool) -> (Queue<N>, Device) {
        let memory = Box::leak(Memory::<N>::new_box_zeroed().unwrap());
        let queue = Queue::new(memory, event_index);
        let rings = queue.rings;
        let (next, used) = (0, 0);
        (queue, Device { rings, next, used })
    }

    fn buffer(byte: u8) -> Buffer {
        Box::leak(Box::new([byte; 16]))
    }

    #[test]
    fn the_device_reads_and_writes_what_it_was_lent_and_no_more() {
        let (mut queue, mut device) = queue(true);
        queue.push_out(buffer(1), 4, 8).unwrap();
        queue.push_in(buffer(2), 6).unwrap();
        assert_eq!(device.next(), None);
        queue.publish();
        let (first, address, len, writes) = device.next().unwrap();
        assert_eq!((len, writes), (8, false));
        let (second, room, room_len, writes) = device.next().unwrap();
        assert_eq!((room_len, writes), (10, true));
        for (address, byte) in [(address + len - 1, 1), (room + room_len - 1, 2)] {
            let place = ptr::with_exposed_provenance_mut::<u8>(address);
            // SAFETY: the buffer is lent to this device.
            assert_eq!(unsafe { place.replace(9) }, byte);
        }
        // Not in the order in which they were lent.
        device.give_back(second.into(), 10);
        device.give_back(first.into(), 0);
        let (buffer, len) = queue.pop().unwrap();
        assert_eq!((&buffer[14..], len), (&[2, 9][..], 10));
        let (buffer, len) = queue.pop().unwrap();
        assert_eq!((&buffer[10..13], len), (&[1, 9, 1][..], 0));
        assert!(queue.pop().is_none());
        assert_eq!(queue.outstanding(), 0);
    }

    #[test]
    fn what_does_not_fit_comes_back() {
        let (mut queue, _) = queue(true);
        for (start, len) in [(0, 17), (17, 0), (9, 8), (usize::MAX, 2), (2, usize::MAX)] {
            let back = queue.push_out(buffer(7), start, len).unwrap_err();
            assert_eq!(back, [7; 16]);
        }
        for _ in 0..N {
            queue.push_in(buffer(0), 0).unwrap();
        }
        assert_eq!(queue.push_in(buffer(7), 0).unwrap_err(), [7; 16]);
        assert_eq!(queue.outstanding(), N);
    }

    #[test]
    fn a_device_cannot_return_what_it_does_not_have() {
        let (mut queue, mut device) = queue(true);
        queue.push_in(buffer(1), 0).unwrap();
        queue.push_in(buffer(2), 0).unwrap();
        queue.publish();
        let (id, ..) = device.next().unwrap();
        device.give_back(u32::from(id), 3);
        device.give_back(u32::from(id), 3);
        device.give_back(0, 3);
        device.give_back(u32::MAX, 3);
        let returned: Vec<_> = core::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(returned.len(), 1);
        assert_eq!((returned[0].0[0], queue.outstanding()), (1, 1));
    }

    #[test]
    fn the_device_is_notified_of_what_it_waits_for_also_when_indices_wrap() {
        let (mut queue, mut device) = queue(true);
        let mut index = 0u16;
        for turn in 0..70_000u32 {
            // It waits for every third buffer.
            let wanted = turn % 3 == 0;
            device.wait_for(index.wrapping_sub(u16::from(!wanted)));
            queue.push_in(buffer_of(turn), 0).unwrap();
            assert_eq!(queue.publish(), wanted, "turn {turn}");
            assert!(!queue.publish());
            let (id, ..) = device.next().unwrap();
            device.give_back(id.into(), turn);
            let (buffer, len) = queue.pop().unwrap();
            assert_eq!(len, usize::try_from(turn).unwrap());
            // SAFETY: `buffer_of` leaked it, and nobody else has it any more.
            drop(unsafe { Box::from_raw(buffer) });
            index = index.wrapping_add(1);
        }
    }

    fn buffer_of(turn: u32) -> Buffer {
        let bytes: Box<[u8]> = Box::new(turn.to_le_bytes());
        Box::leak(bytes)
    }

    #[test]
    fn a_notification_is_not_lost_in_a_batch() {
        let (mut queue, device) = queue(true);
        device.wait_for(1);
        for _ in 0..3 {
            queue.push_in(buffer(0), 0).unwrap();
        }
        assert!(queue.publish());
    }

    #[test]
    fn without_event_indices_a_flag_says_it() {
        let (mut queue, device) = queue(false);
        for flag in [0, NO_NOTIFY] {
            device.rings.used.flags.store(flag, Ordering::Relaxed);
            queue.push_in(buffer(0), 0).unwrap();
            assert_eq!(queue.publish(), flag == 0);
        }
    }

    #[test]
    fn arming_tells_of_what_waits_already() {
        let (mut queue, mut device) = queue(true);
        queue.push_in(buffer(0), 0).unwrap();
        queue.publish();
        assert!(!queue.arm());
        let (id, ..) = device.next().unwrap();
        device.give_back(id.into(), 0);
        assert!(queue.arm());
        assert!(queue.pop().is_some());
        assert!(!queue.arm());
        let event = &device.rings.available.used_event;
        assert_eq!(event.load(Ordering::Relaxed), 1);
    }
}
