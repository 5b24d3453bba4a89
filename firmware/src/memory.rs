//! Memory without an allocator: statics that are lent once and for all.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use heapless::Vec;
use zerocopy::FromZeros;

use crate::{BUFFER_LEN, Buffer, Pool};

/// Frame buffers that an image for an emulator has.
pub const BUFFERS: usize = 4096;

/// A static that whoever asks first has for ever. One of zeroes takes no room in an
/// image, and nothing of it is ever on a stack.
pub struct Static<T> {
    lent: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value goes to one owner, who may be on any processor.
unsafe impl<T: Send> Sync for Static<T> {}

impl<T> Static<T> {
    /// A static with this value.
    pub const fn new(value: T) -> Self {
        Static {
            lent: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::new(value)),
        }
    }

    /// A static of zeroes.
    pub const fn zeroed() -> Self
    where
        T: FromZeros,
    {
        Static {
            lent: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::zeroed()),
        }
    }

    /// The value; `None` when somebody has it.
    #[expect(clippy::mut_from_ref, reason = "the swap lets one caller have it")]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.lent.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: the swap lets one caller come here, once.
        let value = unsafe { &mut *self.value.get() };
        // SAFETY: both ways to make a `Static` leave a value in it: `zeroed` asks for a
        // type whose zeroes are one.
        Some(unsafe { value.assume_init_mut() })
    }
}

/// One frame's memory. Aligned, so that headers are where a cache line begins.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct FrameMemory([u8; BUFFER_LEN]);

static MEMORY: Static<[FrameMemory; BUFFERS]> = Static::zeroed();
static FREE: Static<Vec<Buffer, BUFFERS>> = Static::new(Vec::new());

/// The pool of all [`BUFFERS`]; `None` when it was asked for before.
pub fn pool() -> Option<Pool> {
    let memory = MEMORY.take()?;
    let free = FREE.take()?;
    free.extend(memory.iter_mut().map(|FrameMemory(bytes)| &mut bytes[..]));
    Some(Pool::new(free.as_mut_view()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_is_lent_once() {
        static NUMBERS: Static<[u32; 3]> = Static::zeroed();
        static TEXT: Static<&str> = Static::new("text");
        assert_eq!(NUMBERS.take(), Some(&mut [0; 3]));
        assert_eq!(NUMBERS.take(), None);
        assert_eq!(TEXT.take(), Some(&mut "text"));
        assert_eq!(TEXT.take(), None);
    }

    #[test]
    fn the_pool_has_all_buffers_and_takes_them_back() {
        let mut pool = pool().unwrap();
        assert!(super::pool().is_none());
        assert_eq!(pool.len(), BUFFERS);
        let buffer = pool.take().unwrap();
        assert_eq!((buffer.len(), buffer.as_ptr().addr() % 64), (BUFFER_LEN, 0));
        pool.give(buffer);
        assert_eq!(pool.len(), BUFFERS);
    }
}
