//! What no image does, for the one that tries whether it is noticed: each of these ends
//! in a fault.

use core::arch::asm;

/// What is read only.
static CONSTANT: [u8; 16] = *b"it is a constant";
/// A function that returns.
#[cfg(target_arch = "aarch64")]
static RETURN: crate::memory::Static<[u8; 4]> =
    crate::memory::Static::new([0xc0, 0x03, 0x5f, 0xd6]);
#[cfg(target_arch = "x86_64")]
static RETURN: crate::memory::Static<[u8; 1]> = crate::memory::Static::new([0xc3]);

/// Writes over a constant.
pub fn write_constant() {
    write((&raw const CONSTANT).expose_provenance());
}

/// Writes over code.
pub fn write_code() {
    write((write_code as *const ()).expose_provenance());
}

/// Executes data.
pub fn execute_data() {
    if let Some(code) = RETURN.take() {
        let address = (&raw mut *code).expose_provenance();
        // SAFETY: the processor refuses it; if not, what is there returns at once.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!("blr {}", in(reg) address, clobber_abi("C"));
        }
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!("call {}", in(reg) address, clobber_abi("C"));
        }
    }
}

/// Writes a byte to where nobody may.
fn write(address: usize) {
    // SAFETY: the processor refuses it; if not, nothing that is used any more is there.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("strb wzr, [{}]", in(reg) address, options(nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov byte ptr [{}], 0", in(reg) address, options(nostack, preserves_flags));
    }
}
