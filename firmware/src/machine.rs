//! QEMU's machines as a [`Board`]: virtio devices behind memory-mapped registers.

use culvert_core::{Frame, Instant, MacAddr};
use defmt::Display2Format;
use heapless::Vec;
use virtio_drivers::transport::DeviceType;

use crate::MAX_NICS;
use crate::arch;
use crate::virtio::console::Console;
use crate::virtio::device::{Device, DeviceError};
use crate::virtio::entropy::Entropy;
use crate::virtio::nic::Nic;
use crate::{Batch, Board, End, Pool, shares};

/// A machine's devices.
pub struct Machine {
    nics: Vec<Nic, MAX_NICS>,
    console: Option<Console>,
    entropy: Option<Entropy>,
}

impl Machine {
    /// Finds the devices and lets them work; [`shares`] says how many of the pool's
    /// buffers each may have.
    pub fn new(pool: &mut Pool) -> Self {
        let mut machine = Machine {
            nics: Vec::new(),
            console: None,
            entropy: None,
        };
        for device in (0..arch::SLOTS).filter_map(Device::find) {
            let slot = device.slot();
            if let Err(error) = machine.add(device) {
                defmt::warn!(
                    "slot {=usize}: this device is left out, {}",
                    slot,
                    Display2Format(&error)
                );
            }
        }
        // Only now is it known how many share the pool.
        let shares = shares(pool.len(), machine.nics.len());
        for nic in &mut machine.nics {
            nic.start(shares, pool);
        }
        machine
    }

    fn add(&mut self, device: Device) -> Result<(), DeviceError> {
        let slot = device.slot();
        match device.kind() {
            DeviceType::Network => {
                let nic = Nic::new(device)?;
                defmt::info!("slot {=usize}: NIC {=[u8; 6]:02x}", slot, nic.mac().bytes());
                self.nics.push(nic).map_err(|_| DeviceError::TooMany)?;
            }
            DeviceType::Console => {
                self.console = Some(Console::new(device)?);
                defmt::info!("slot {=usize}: console", slot);
            }
            DeviceType::EntropySource => {
                self.entropy = Some(Entropy::new(device)?);
                defmt::info!("slot {=usize}: entropy", slot);
            }
            _ => defmt::info!("slot {=usize}: a device without a driver", slot),
        }
        Ok(())
    }

    /// Asks all devices for interrupts; whether something waits already.
    fn arm(&mut self) -> bool {
        let mut waits = false;
        // The buffers that one wants may be where another sends.
        let are_short = self.nics.iter().any(Nic::is_short);
        for nic in &mut self.nics {
            waits |= nic.arm(are_short);
        }
        if let Some(console) = &mut self.console {
            waits |= console.arm();
        }
        waits
    }

    /// Tells those devices that their interrupts were noticed that have raised one.
    fn acknowledge(&mut self) {
        let wakers = arch::wakers();
        if wakers == 0 {
            return;
        }
        let nics = self.nics.iter_mut().map(Nic::device);
        let console = self.console.iter_mut().map(Console::device);
        let entropy = self.entropy.iter_mut().map(Entropy::device);
        for device in nics.chain(console).chain(entropy) {
            if wakers & 1 << device.slot() != 0 {
                device.acknowledge();
            }
        }
    }
}

impl Board for Machine {
    fn nics(&self) -> usize {
        self.nics.len()
    }

    fn mac(&self, nic: usize) -> MacAddr {
        self.nics.get(nic).map_or(MacAddr::ZERO, Nic::mac)
    }

    fn receive(&mut self, nic: usize, pool: &mut Pool, batch: &mut Batch) {
        let Some(receiver) = self.nics.get_mut(nic) else {
            return;
        };
        receiver.receive(pool, batch);
        if receiver.is_short() && pool.is_empty() {
            // Perhaps buffers wait to be taken back from where nobody sends any more.
            self.nics.iter_mut().for_each(|nic| nic.reap(pool));
            if let Some(receiver) = self.nics.get_mut(nic) {
                receiver.refill(pool);
            }
        }
    }

    #[inline(always)]
    fn send(&mut self, nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool {
        let Some(sender) = self.nics.get_mut(nic) else {
            pool.give_frame(frame);
            return false;
        };
        sender.send(pool, frame)
    }

    fn flush(&mut self, nic: usize, pool: &mut Pool) {
        if let Some(nic) = self.nics.get_mut(nic) {
            nic.flush(pool);
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.console.as_mut().map_or(0, |c| c.read(bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.console.as_mut().map_or(0, |c| c.write(bytes))
    }

    fn now(&mut self) -> Instant {
        Instant::from_micros(arch::micros())
    }

    fn sleep(&mut self, until: Instant) {
        if !self.arm() {
            arch::sleep_until(until.micros());
            self.acknowledge();
        }
    }

    fn end(&mut self, how: End) -> ! {
        match how {
            End::Restart => arch::restart(),
            End::Off(status) => arch::exit(status),
        }
    }

    fn random(&mut self, bytes: &mut [u8]) -> bool {
        self.entropy.as_mut().is_some_and(|e| e.fill(bytes))
    }

    fn instructions(&mut self) -> u64 {
        arch::instructions()
    }

    fn stack(&mut self) -> u32 {
        arch::high_water()
    }
}
