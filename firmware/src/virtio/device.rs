//! What all devices have in common: registers, negotiation, queues, interrupts.

use core::fmt;
use core::ptr::{self, NonNull};

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

use super::queue::{Memory, Queue};
use crate::arch;

/// VIRTIO_F_VERSION_1: not a device of before the standard.
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_EVENT_IDX: both ends say which buffer they want to be told of.
const EVENT_INDEX: u64 = 1 << 29;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// It only speaks what was spoken before virtio 1.0.
    Legacy,
    /// It has refused the features that it offers itself.
    Features,
    /// A queue of it is smaller than the driver's, or is not there.
    QueueTooSmall {
        /// Number of the queue.
        queue: u16,
        /// Descriptors that it may have.
        largest: u32,
        /// Descriptors that the driver needs.
        needed: u16,
    },
    /// There are more devices of its kind than the image has memory for.
    TooMany,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::Legacy => f.write_str(
                "it is a legacy device: start QEMU with -global virtio-mmio.force-legacy=false",
            ),
            DeviceError::Features => f.write_str("it refuses the features that it offers"),
            DeviceError::QueueTooSmall {
                queue,
                largest,
                needed,
            } => write!(
                f,
                "its queue {queue} has at most {largest} descriptors and {needed} are needed"
            ),
            DeviceError::TooMany => f.write_str("there are more of its kind than can be used"),
        }
    }
}

impl core::error::Error for DeviceError {}

/// A device.
pub struct Device {
    transport: MmioTransport<'static>,
    slot: usize,
    event_index: bool,
}

impl Device {
    /// The device of a slot, if there is one. Call it once for each.
    pub(crate) fn find(slot: usize) -> Option<Device> {
        let header = ptr::with_exposed_provenance_mut::<VirtIOHeader>(arch::slot_address(slot));
        let header = NonNull::new(header)?;
        // SAFETY: `arch` says that a device's registers are there, mapped as such for
        // ever, or nothing that one takes for a device; nobody else uses this slot.
        let transport = unsafe { MmioTransport::new(header, arch::SLOT_SIZE) }.ok()?;
        Some(Device {
            transport,
            slot,
            event_index: false,
        })
    }

    /// The slot that it is in.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// What it is.
    pub fn kind(&self) -> DeviceType {
        self.transport.device_type()
    }

    /// Resets the device and takes those of its features that are `wanted`; returns
    /// them. What queues need is taken besides.
    ///
    /// # Errors
    /// [`DeviceError::Legacy`] and [`DeviceError::Features`].
    pub fn negotiate(&mut self, wanted: u64) -> Result<u64, DeviceError> {
        let transport = &mut self.transport;
        transport.set_status(DeviceStatus::empty());
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        let offered = transport.read_device_features();
        if transport.requires_legacy_layout() || offered & VERSION_1 == 0 {
            transport.set_status(DeviceStatus::FAILED);
            return Err(DeviceError::Legacy);
        }
        let features = offered & (wanted | EVENT_INDEX) | VERSION_1;
        transport.write_driver_features(features);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            transport.set_status(DeviceStatus::FAILED);
            return Err(DeviceError::Features);
        }
        self.event_index = features & EVENT_INDEX != 0;
        Ok(features)
    }

    /// Makes one of the device's queues.
    ///
    /// # Errors
    /// [`DeviceError::QueueTooSmall`].
    pub fn queue<const N: usize>(
        &mut self,
        number: u16,
        memory: &'static mut Memory<N>,
    ) -> Result<Queue<N>, DeviceError> {
        let largest = self.transport.max_queue_size(number);
        let needed = Queue::<N>::SIZE;
        if largest < u32::from(needed) {
            return Err(DeviceError::QueueTooSmall {
                queue: number,
                largest,
                needed,
            });
        }
        let queue = Queue::new(memory, self.event_index);
        let at = queue.addresses();
        self.transport
            .queue_set(number, needed.into(), at.descriptors, at.available, at.used);
        Ok(queue)
    }

    /// Lets the device work, and its interrupt end a sleep.
    pub fn start(&mut self) {
        self.transport.finish_init();
        arch::enable_interrupt(self.slot);
    }

    /// Tells the device to look at a queue.
    #[inline]
    pub fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
    }

    /// Tells the device that its interrupt was noticed. Look at its queues after that.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }

    /// A byte of the device's configuration; 0 behind its end.
    pub fn config(&self, offset: usize) -> u8 {
        self.transport.read_config_space(offset).unwrap_or(0)
    }
}
