//! The entropy device.

use zerocopy::FromZeros;

use super::device::{Device, DeviceError};
use super::queue::{self, Queue};
use crate::Buffer;
use crate::arch;
use crate::memory::Static;

/// Bytes asked for at a time.
const LEN: usize = 64;

/// Microseconds that the device may take for them.
const PATIENCE: u64 = 1_000_000;

const QUEUE: u16 = 0;

#[derive(FromZeros)]
#[repr(C)]
struct Memory {
    queue: queue::Memory<1>,
    bytes: [u8; LEN],
}

static MEMORY: Static<Memory> = Static::zeroed();

/// An entropy device.
pub struct Entropy {
    device: Device,
    queue: Queue<1>,
    /// `None` while the device has it.
    buffer: Option<Buffer>,
}

impl Entropy {
    /// Readies a device and lets it work.
    ///
    /// # Errors
    /// [`DeviceError`] when it is none that this can use; one can be.
    pub fn new(mut device: Device) -> Result<Self, DeviceError> {
        let memory = MEMORY.take().ok_or(DeviceError::TooMany)?;
        device.negotiate(0)?;
        let queue = device.queue(QUEUE, &mut memory.queue)?;
        device.start();
        Ok(Entropy {
            device,
            queue,
            buffer: Some(&mut memory.bytes),
        })
    }

    /// The device.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Fills in random bytes; `false` when the device gives none for a second.
    pub fn fill(&mut self, bytes: &mut [u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            // A buffer that came too late the last time is as good as any.
            if let Some(buffer) = self.buffer.take()
                && let Err(buffer) = self.queue.push_in(buffer, 0)
            {
                self.buffer = Some(buffer);
                return false;
            }
            if self.queue.publish() {
                self.device.notify(QUEUE);
            }
            let Some((buffer, written)) = self.wait() else {
                return false;
            };
            let count = written.min(buffer.len()).min(rest.len());
            let (filled, others) = rest.split_at_mut(count);
            filled.copy_from_slice(&buffer[..count]);
            // Nobody else shall have them.
            buffer.fill(0);
            self.buffer = Some(buffer);
            if count == 0 {
                return false;
            }
            rest = others;
        }
        true
    }

    fn wait(&mut self) -> Option<(Buffer, usize)> {
        let until = arch::micros() + PATIENCE;
        loop {
            let answer = self.queue.pop();
            if answer.is_some() || arch::micros() > until {
                return answer;
            }
            core::hint::spin_loop();
        }
    }
}
