//! A device's registers in memory.

use core::ptr;

/// `SIZE` bytes of registers of 32 bits.
pub(super) struct Registers<const SIZE: usize> {
    base: usize,
}

impl<const SIZE: usize> Registers<SIZE> {
    /// The registers at an address.
    ///
    /// # Safety
    /// A device must be there, mapped as such, and nothing that is read of or written
    /// to its registers may touch memory.
    pub(super) const unsafe fn new(base: usize) -> Self {
        Registers { base }
    }

    /// The address of a register.
    ///
    /// # Panics
    /// When it is not one of these.
    fn at(&self, offset: usize) -> *mut u32 {
        assert!(offset < SIZE && offset.is_multiple_of(4));
        ptr::with_exposed_provenance_mut(self.base + offset)
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        let register = self.at(offset);
        // SAFETY: `new` was promised a device whose registers may be read, and `at`
        // has looked that this is one.
        unsafe { register.read_volatile() }
    }

    pub(super) fn write(&self, offset: usize, value: u32) {
        let register = self.at(offset);
        // SAFETY: as for reading.
        unsafe { register.write_volatile(value) }
    }
}
