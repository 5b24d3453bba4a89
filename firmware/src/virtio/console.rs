//! The console device, its port 0: bytes in, bytes out.

use heapless::Vec;
use zerocopy::FromZeros;

use super::device::{Device, DeviceError};
use super::queue::{self, Queue};
use crate::Buffer;
use crate::memory::Static;

/// Buffers in each direction.
const BUFFERS: usize = 16;
/// Bytes of one.
const LEN: usize = 1024;

const RECEIVE_QUEUE: u16 = 0;
const SEND_QUEUE: u16 = 1;

#[derive(FromZeros)]
#[repr(C)]
struct Memory {
    receive: queue::Memory<BUFFERS>,
    send: queue::Memory<BUFFERS>,
    incoming: [[u8; LEN]; BUFFERS],
    outgoing: [[u8; LEN]; BUFFERS],
}

static MEMORY: Static<Memory> = Static::zeroed();

/// What has come in and was not read to its end.
struct Rest {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// A console.
pub struct Console {
    device: Device,
    receive: Queue<BUFFERS>,
    send: Queue<BUFFERS>,
    rest: Option<Rest>,
    free: Vec<Buffer, BUFFERS>,
    /// The last write found too little room.
    wants_room: bool,
}

impl Console {
    /// Readies a device and lets it work.
    ///
    /// # Errors
    /// [`DeviceError`] when it is none that this can use; one console can be.
    pub fn new(mut device: Device) -> Result<Self, DeviceError> {
        let memory = MEMORY.take().ok_or(DeviceError::TooMany)?;
        // Without VIRTIO_CONSOLE_F_MULTIPORT there is port 0 and no control queue.
        device.negotiate(0)?;
        let receive = device.queue(RECEIVE_QUEUE, &mut memory.receive)?;
        let send = device.queue(SEND_QUEUE, &mut memory.send)?;
        device.start();
        let mut console = Console {
            device,
            receive,
            send,
            rest: None,
            free: memory.outgoing.iter_mut().map(|b| &mut b[..]).collect(),
            wants_room: false,
        };
        for buffer in &mut memory.incoming {
            console.give(buffer);
        }
        console.show();
        Ok(console)
    }

    /// The device.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Puts a buffer where bytes can come in.
    fn give(&mut self, buffer: Buffer) {
        // There are as many descriptors as buffers.
        let _ = self.receive.push_in(buffer, 0);
    }

    fn show(&mut self) {
        if self.receive.publish() {
            self.device.notify(RECEIVE_QUEUE);
        }
    }

    /// Reads what has come in; returns how many bytes.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut len = 0;
        while len < bytes.len() {
            let Some(mut rest) = self.rest.take().or_else(|| self.next()) else {
                break;
            };
            let from = &rest.buffer[rest.start..rest.end];
            let count = from.len().min(bytes.len() - len);
            bytes[len..len + count].copy_from_slice(&from[..count]);
            len += count;
            rest.start += count;
            if rest.start < rest.end {
                self.rest = Some(rest);
            } else {
                self.give(rest.buffer);
            }
        }
        self.show();
        len
    }

    /// The next buffer that has come in.
    fn next(&mut self) -> Option<Rest> {
        let (buffer, written) = self.receive.pop()?;
        let end = written.min(buffer.len());
        Some(Rest {
            buffer,
            start: 0,
            end,
        })
    }

    /// Writes as many bytes as there is room for; returns how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        while let Some((buffer, _)) = self.send.pop() {
            // It came from there.
            let _ = self.free.push(buffer);
        }
        let mut written = 0;
        for chunk in bytes.chunks(LEN) {
            let Some(buffer) = self.free.pop() else { break };
            buffer[..chunk.len()].copy_from_slice(chunk);
            if let Err(buffer) = self.send.push_out(buffer, 0, chunk.len()) {
                let _ = self.free.push(buffer);
                break;
            }
            written += chunk.len();
        }
        if self.send.publish() {
            self.device.notify(SEND_QUEUE);
        }
        self.wants_room = written < bytes.len();
        written
    }

    /// Asks for an interrupt when something comes in, and tells whether something has.
    /// After a write that found too little room it is about room instead: who does not
    /// listen is not heard either.
    pub fn arm(&mut self) -> bool {
        if self.wants_room {
            self.send.arm()
        } else {
            self.rest.is_some() || self.receive.arm()
        }
    }
}
