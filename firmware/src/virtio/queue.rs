//! A split virtqueue (virtio 1.2, section 2.7) in which each buffer is one descriptor.
//!
//! What the device sees is made of atomics: it is another processor as far as memory
//! is concerned. What it says is used only after a look at our own notes: it can
//! return a buffer that it has, and nothing else.

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
