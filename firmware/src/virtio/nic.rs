//! Network devices: one queue to receive, one to send, no offloads.

use culvert_core::{Frame, MacAddr, Packet};
use zerocopy::FromZeros;

use super::device::{Device, DeviceError};
use super::queue::{self, Queue};
use crate::MAX_NICS;
use crate::memory::Static;
use crate::{Batch, Pool};

/// VIRTIO_NET_F_MAC: the device tells its own address.
const FEATURE_MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_MRG_RXBUF: a frame may lie in several buffers. Such a one is too long,
/// and it is counted; without this the device drops it and does not tell.
const FEATURE_MERGE: u64 = 1 << 15;

/// Buffers that wait for frames, at most.
const RECEIVE: usize = 128;
/// Frames that wait to be sent, at most.
const SEND: usize = 256;

const RECEIVE_QUEUE: u16 = 0;
const SEND_QUEUE: u16 = 1;

/// Bytes of the header that goes with each frame. Without offloads all of it is zero, but
/// for the last two of a received frame's: the number of its buffers.
const HEADER: usize = 12;

/// Queues of one NIC.
#[derive(FromZeros)]
#[repr(C)]
struct Memory {
    receive: queue::Memory<RECEIVE>,
    send: queue::Memory<SEND>,
}

static MEMORY: [Static<Memory>; MAX_NICS] = [const { Static::zeroed() }; MAX_NICS];

/// A network device.
pub struct Nic {
    device: Device,
    mac: MacAddr,
    receive: Queue<RECEIVE>,
    send: Queue<SEND>,
    /// Buffers that it may have for receiving.
    buffers: usize,
    /// Frames that may wait in its send queue.
    room: usize,
    /// Buffers still to come of a frame that is too long.
    rest: u16,
}

impl Nic {
    /// Readies a device. It receives nothing before [`Nic::start`].
    ///
    /// # Errors
    /// [`DeviceError`] when it is none that this can use.
    pub fn new(mut device: Device) -> Result<Self, DeviceError> {
        let memory = MEMORY.iter().find_map(Static::take);
        let memory = memory.ok_or(DeviceError::TooMany)?;
        let features = device.negotiate(FEATURE_MAC | FEATURE_MERGE)?;
        let receive = device.queue(RECEIVE_QUEUE, &mut memory.receive)?;
        let send = device.queue(SEND_QUEUE, &mut memory.send)?;
        let mac = if features & FEATURE_MAC == 0 {
            MacAddr::ZERO
        } else {
            MacAddr::new(core::array::from_fn(|i| device.config(i)))
        };
        Ok(Nic {
            device,
            mac,
            receive,
            send,
            buffers: 0,
            room: SEND,
            rest: 0,
        })
    }

    /// Lets it receive into at most so many buffers, and send out of so many.
    pub fn start(&mut self, (buffers, room): (usize, usize), pool: &mut Pool) {
        self.buffers = buffers.min(RECEIVE);
        self.room = room.min(SEND);
        self.device.start();
        self.refill(pool);
    }

    /// Its own address; zero when it tells none.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The device.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Appends what was received to the batch until that is full, and puts other
    /// buffers in their places. Of a frame in several buffers the first is one that is
    /// longer than [`crate::LARGEST_FRAME`].
    #[inline]
    pub fn receive(&mut self, pool: &mut Pool, batch: &mut Batch) {
        while !batch.is_full() {
            let Some((buffer, written)) = self.receive.pop() else {
                break;
            };
            let len = written.saturating_sub(HEADER);
            let is_rest = self.rest > 0;
            self.rest = self.rest.saturating_sub(1);
            if is_rest || len > buffer.len() - Frame::HEADROOM.min(buffer.len()) {
                // Of a frame that is too long, or more than there is room for: the
                // device is wrong about that.
                pool.give(buffer);
                continue;
            }
            let count = buffer.get(Frame::HEADROOM - 2..Frame::HEADROOM);
            if let Some(&[low, high]) = count {
                // 1 is the usual number; without the feature it may be 0.
                self.rest = u16::from_le_bytes([low, high]).saturating_sub(1);
            }
            if let Ok(frame) = Frame::new(buffer, Frame::HEADROOM, len) {
                // There is room: the batch is not full.
                let _ = batch.push(Packet::new(frame));
            }
        }
        self.refill(pool);
    }

    /// Gives the device buffers until it has its number or the pool none.
    #[inline]
    pub fn refill(&mut self, pool: &mut Pool) {
        while self.receive.outstanding() < self.buffers {
            let Some(buffer) = pool.take() else { break };
            if let Err(buffer) = self.receive.push_in(buffer, Frame::HEADROOM - HEADER) {
                pool.give(buffer);
                break;
            }
        }
        if self.receive.publish() {
            self.device.notify(RECEIVE_QUEUE);
        }
    }

    /// Whether it has fewer buffers to receive into than it should have.
    pub fn is_short(&self) -> bool {
        self.receive.outstanding() < self.buffers
    }

    /// Puts a frame into the send queue; `false` when that is full, the buffer is then
    /// in the pool.
    #[inline]
    pub fn send(&mut self, pool: &mut Pool, frame: Frame<'static>) -> bool {
        if self.send.outstanding() >= self.room {
            self.reap(pool);
            if self.send.outstanding() >= self.room {
                pool.give_frame(frame);
                return false;
            }
        }
        let (buffer, range) = frame.into_buffer();
        // The core leaves at least this of the headroom.
        let Some(start) = range.start.checked_sub(HEADER) else {
            pool.give(buffer);
            return false;
        };
        if let Some(header) = buffer.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
            *header = [0; HEADER];
        }
        match self.send.push_out(buffer, start, range.end - start) {
            Ok(()) => true,
            Err(buffer) => {
                pool.give(buffer);
                false
            }
        }
    }

    /// Shows the device what there is to send, and takes back what it has sent.
    #[inline]
    pub fn flush(&mut self, pool: &mut Pool) {
        if self.send.publish() {
            self.device.notify(SEND_QUEUE);
        }
        self.reap(pool);
    }

    /// Takes back the buffers of frames that were sent.
    #[inline]
    pub fn reap(&mut self, pool: &mut Pool) {
        while let Some((buffer, _)) = self.send.pop() {
            pool.give(buffer);
        }
    }

    /// Asks for an interrupt when something comes in, and tells whether something has;
    /// where buffers are short, also when one is sent.
    pub fn arm(&mut self, are_short: bool) -> bool {
        let received = self.receive.arm();
        received | (are_short && self.send.outstanding() > 0 && self.send.arm())
    }
}
