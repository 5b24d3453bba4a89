//! The LAN9118, an Ethernet controller without DMA: frames go word by word through
//! its FIFOs. Section numbers are of SMSC's data sheet.

use core::fmt;

use culvert_core::MacAddr;

use crate::arch::registers::Registers;

// SAFETY: the board's Ethernet controller; it has no way to memory.
const CHIP: Registers<0x100> = unsafe { Registers::new(0x4020_0000) };
/// Its interrupt.
const INTERRUPT: usize = 13;

const RX_DATA: usize = 0x00;
const TX_DATA: usize = 0x20;
const RX_STATUS: usize = 0x40;
const TX_STATUS: usize = 0x48;
const IRQ_CFG: usize = 0x54;
const INT_STS: usize = 0x58;
const INT_EN: usize = 0x5c;
const BYTE_TEST: usize = 0x64;
const FIFO_INT: usize = 0x68;
const RX_CFG: usize = 0x6c;
const TX_CFG: usize = 0x70;
const HW_CFG: usize = 0x74;
const RX_FIFO_INF: usize = 0x7c;
const TX_FIFO_INF: usize = 0x80;
const MAC_CSR_CMD: usize = 0xa4;
const MAC_CSR_DATA: usize = 0xa8;
const E2P_CMD: usize = 0xb0;

/// What `BYTE_TEST` reads once the chip is awake.
const AWAKE: u32 = 0x8765_4321;
/// `HW_CFG`: reset; a bit that must be one; 5 KiB of 16 for the transmit FIFO.
const HW_RESET: u32 = 1;
const HW_FIFOS: u32 = 1 << 20 | 5 << 16;
/// `TX_CFG`: on.
const TX_ON: u32 = 1 << 1;
/// `IRQ_CFG`: enabled, active high, push-pull.
const IRQ_ON: u32 = 1 << 8 | 1 << 4 | 1;
/// `INT_STS`, `INT_EN`: more frames wait than `FIFO_INT` says.
const INT_RECEIVED: u32 = 1 << 3;
/// `MAC_CSR_CMD`, `E2P_CMD`: at work.
const BUSY: u32 = 1 << 31;
const MAC_READ: u32 = 1 << 30;
/// Registers of the MAC behind `MAC_CSR_CMD`.
const MAC_CR: u32 = 1;
const MAC_ADDRH: u32 = 2;
const MAC_ADDRL: u32 = 3;
const MAC_VLAN1: u32 = 9;
/// `MAC_CR`: full duplex, all frames whoever they are for, transmitter, receiver.
const MAC_ON: u32 = 1 << 20 | 1 << 18 | 1 << 3 | 1 << 2;
/// A tag that lets a frame be four bytes longer.
const TPID: u32 = 0x8100;

/// Receive status: the frame is damaged.
const RX_ERROR: u32 = 1 << 15;
/// Transmit command A: first and last segment of its frame.
const TX_WHOLE: u32 = 1 << 13 | 1 << 12;
/// Two words of commands in front of a frame's data, and what alignment may take.
const TX_OVERHEAD: u32 = 12;
/// Bytes of a frame's checksum, which is behind it in the receive FIFO.
const FCS: usize = 4;
/// The largest frame to be sent, in bytes: the length in command A has eleven bits.
const TX_LARGEST: usize = 2047;

/// Reads of a register until the chip must have done what it was told: some 10 ms.
const PATIENCE: u32 = 100_000;

/// Why the controller cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Nothing answers at its address.
    Absent,
    /// It does not come back from a reset.
    Reset,
    /// It does not read its EEPROM, which has its MAC address.
    Eeprom,
    /// Its MAC does not take commands.
    Mac,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StartError::Absent => "no LAN9118 answers at 0x40200000",
            StartError::Reset => "the LAN9118 does not come back from its reset",
            StartError::Eeprom => "the LAN9118 does not read its EEPROM",
            StartError::Mac => "the LAN9118's MAC does not take commands",
        })
    }
}

impl core::error::Error for StartError {}

/// The controller, ready.
pub struct Lan9118 {
    mac: MacAddr,
}

impl Lan9118 {
    /// Resets the controller and lets it send and receive, everybody's frames.
    ///
    /// # Errors
    /// What it does not do.
    pub fn start() -> Result<Self, StartError> {
        wait(BYTE_TEST, u32::MAX, AWAKE).ok_or(StartError::Absent)?;
        CHIP.write(HW_CFG, HW_RESET);
        wait(HW_CFG, HW_RESET, 0).ok_or(StartError::Reset)?;
        wait(E2P_CMD, BUSY, 0).ok_or(StartError::Eeprom)?;
        CHIP.write(HW_CFG, HW_FIFOS);
        CHIP.write(RX_CFG, 0);
        CHIP.write(TX_CFG, TX_ON);
        let mac = mac_address().ok_or(StartError::Mac)?;
        mac_write(MAC_VLAN1, TPID).ok_or(StartError::Mac)?;
        // One frame is more than none: the lowest byte is the receive FIFO's level.
        CHIP.write(FIFO_INT, 0);
        CHIP.write(INT_STS, u32::MAX);
        CHIP.write(INT_EN, INT_RECEIVED);
        CHIP.write(IRQ_CFG, IRQ_ON);
        super::enable_interrupt(INTERRUPT);
        mac_write(MAC_CR, MAC_ON).ok_or(StartError::Mac)?;
        Ok(Lan9118 { mac })
    }

    /// Its MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Whether a frame waits.
    pub fn readable(&self) -> bool {
        CHIP.read(RX_FIFO_INF) & 0x00ff_0000 != 0
    }

    /// Takes the oldest frame that waits into the front of `buffer` and returns its
    /// length. `Some(0)`: it was damaged or too long, and is dropped.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.readable() {
            return None;
        }
        let status = CHIP.read(RX_STATUS);
        // A number of 14 bits.
        let with_fcs = (status >> 16 & 0x3fff) as usize;
        let len = with_fcs.saturating_sub(FCS);
        let good = status & RX_ERROR == 0;
        let mut words = with_fcs.div_ceil(4);
        let into = buffer.get_mut(..len).filter(|_| good);
        let taken = into.as_ref().map_or(0, |into| into.len());
        for chunk in into.unwrap_or_default().chunks_mut(4) {
            let word = CHIP.read(RX_DATA).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, byte)| *to = byte);
            words -= 1;
        }
        for _ in 0..words {
            CHIP.read(RX_DATA);
        }
        Some(taken)
    }

    /// Sends a frame; `false` when there is no room for it, or it is too long.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let Ok(len) = u32::try_from(frame.len()) else {
            return false;
        };
        let room = CHIP.read(TX_FIFO_INF) & 0xffff;
        if frame.len() > TX_LARGEST || room < len + TX_OVERHEAD {
            return false;
        }
        CHIP.write(TX_DATA, TX_WHOLE | len);
        CHIP.write(TX_DATA, len);
        for chunk in frame.chunks(4) {
            let mut word = [0; 4];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(to, byte)| *to = *byte);
            CHIP.write(TX_DATA, u32::from_le_bytes(word));
        }
        true
    }

    /// Takes out what the controller says about frames that it has sent: without room
    /// for more of it, it sends no further ones (section 3.12.4).
    pub fn forget_sent(&mut self) {
        while CHIP.read(TX_FIFO_INF) & 0x00ff_0000 != 0 {
            CHIP.read(TX_STATUS);
        }
    }

    /// Takes back the interrupts that were asked for.
    pub fn quiet(&mut self) {
        CHIP.write(INT_STS, u32::MAX);
    }
}

/// Waits until some bits of a register have a value.
fn wait(register: usize, mask: u32, value: u32) -> Option<()> {
    (0..PATIENCE).find_map(|_| (CHIP.read(register) & mask == value).then_some(()))
}

fn mac_read(register: u32) -> Option<u32> {
    CHIP.write(MAC_CSR_CMD, BUSY | MAC_READ | register);
    wait(MAC_CSR_CMD, BUSY, 0)?;
    Some(CHIP.read(MAC_CSR_DATA))
}

fn mac_write(register: u32, value: u32) -> Option<()> {
    CHIP.write(MAC_CSR_DATA, value);
    CHIP.write(MAC_CSR_CMD, BUSY | register);
    wait(MAC_CSR_CMD, BUSY, 0)
}

/// The address that the EEPROM has given to the MAC, lowest byte first.
fn mac_address() -> Option<MacAddr> {
    let [a, b, c, d] = mac_read(MAC_ADDRL)?.to_le_bytes();
    let [e, f, ..] = mac_read(MAC_ADDRH)?.to_le_bytes();
    Some(MacAddr::new([a, b, c, d, e, f]))
}
