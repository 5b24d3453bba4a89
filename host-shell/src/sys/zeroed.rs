//! Large zeroed memory that costs nothing until it is touched.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zerocopy::FromZeros;

/// A value in zeroed pages of its own. A `Box` would do, but the allocator fills
/// memory of more than usual alignment with zeroes itself, and so touches all of it.
pub struct Zeroed<T: FromZeros> {
    value: NonNull<T>,
}

impl<T: FromZeros> Zeroed<T> {
    /// Alignment of pages, in bytes.
    const PAGE: usize = 4096;

    /// Maps pages for a value whose bytes are all zero.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn new() -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= Self::PAGE) };
        // SAFETY: an anonymous private mapping of a length above zero, at no given
        // address, touches no memory of anybody.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let value = NonNull::new(pages.cast::<T>());
        value
            .map(|value| Zeroed { value })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

impl<T: FromZeros> Deref for Zeroed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pages are mapped as long as `self` lives, are aligned and large
        // enough for a `T`, and began all zero, which `FromZeros` makes a valid `T`.
        unsafe { self.value.as_ref() }
    }
}

impl<T: FromZeros> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T: FromZeros> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: nobody uses the value after this.
        unsafe { self.value.drop_in_place() };
        // SAFETY: the pages were mapped with this address and length in `new`.
        let unmapped = unsafe { libc::munmap(self.value.as_ptr().cast(), size_of::<T>()) };
        debug_assert_eq!(unmapped, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_touched_takes_memory() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
            pages * 4096
        };
        let before = resident();
        let mut large = Zeroed::<[u64; 1 << 26]>::new().unwrap();
        assert!(large.iter().step_by(1 << 22).all(|word| *word == 0));
        large[12345] = 7;
        assert_eq!(large[12345], 7);
        // Huge pages may come where one byte was asked for.
        assert!(resident() - before < 128 << 20);
    }
}
