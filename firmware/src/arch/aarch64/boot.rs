//! From the first instruction to `run`: translation tables and stacks.
//!
//! aarch64-rt's entry switches the MMU and the caches on by the tables here, empties
//! .bss and comes to `entered` on the stack that [`aarch64_rt::entry!`] reserves. That
//! one is left to exceptions, so that one which the stack's guard has raised can be
//! told of; everything else runs on the stack of `link/aarch64.ld`.

use core::arch::naked_asm;
use core::ptr;

/// Pages of the exceptions' stack.
const EXCEPTION_STACK: usize = 4;

aarch64_rt::entry!(entered, EXCEPTION_STACK);
aarch64_rt::enable_mmu!(LEVEL1);

/// A translation table's entry: a pointer, so that one table can be linked to another.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(*const u8);

/// A translation table.
#[repr(C, align(4096))]
struct Table([Entry; 512]);

// SAFETY: only the MMU follows these pointers.
unsafe impl Sync for Table {}

const VALID: usize = 1;
/// Another table instead of a block.
const TABLE: usize = 1 << 1;
/// Second entry of aarch64-rt's MAIR: normal memory, write-back.
const NORMAL: usize = 1 << 2;
const INNER_SHAREABLE: usize = 3 << 8;
const ACCESSED: usize = 1 << 10;
/// Nobody executes what is there.
const EXECUTE_NEVER: usize = (1 << 53) | (1 << 54);

/// Only read.
const READ_ONLY: usize = 1 << 7;

const MEMORY: usize = VALID | NORMAL | INNER_SHAREABLE | ACCESSED;
const DATA: usize = MEMORY | EXECUTE_NEVER;
const CODE: usize = MEMORY | READ_ONLY;
const CONSTANTS: usize = DATA | READ_ONLY;
/// First entry of aarch64-rt's MAIR: device, nGnRE.
const DEVICE: usize = VALID | ACCESSED | EXECUTE_NEVER;

/// Where RAM begins.
const RAM: usize = 0x4000_0000;

const NOTHING: Entry = Entry(ptr::null());

const fn entry(address: usize, attributes: usize) -> Entry {
    Entry(ptr::without_provenance(address | attributes))
}

const fn table(table: &'static Table) -> Entry {
    Entry(
        (&raw const *table)
            .cast::<u8>()
            .wrapping_byte_add(VALID | TABLE),
    )
}

/// Devices, RAM, and the devices above it, 1 GiB each. 256 GiB, where the machine has
/// its PCIe window, are left out: nothing here uses it.
static LEVEL1: Table = {
    let mut entries = [NOTHING; 512];
    entries[0] = entry(0, DEVICE);
    entries[1] = table(&LEVEL2);
    Table(entries)
};

/// RAM, 2 MiB each.
static LEVEL2: Table = {
    let mut entries = [NOTHING; 512];
    let mut i = 0;
    while i < 512 {
        entries[i] = entry(RAM + (i << 21), DATA);
        i += 1;
    }
    // Below the stack; QEMU's device tree is there, which nothing here reads.
    entries[0] = NOTHING;
    // Where link/aarch64.ld puts them.
    entries[2] = entry(RAM + (2 << 21), CODE);
    entries[3] = entry(RAM + (3 << 21), CONSTANTS);
    Table(entries)
};

fn entered(_device_tree: u64, _: u64, _: u64, _: u64) -> ! {
    change_stack()
}

/// Leaves the present stack to exceptions.
#[unsafe(naked)]
extern "C" fn change_stack() -> ! {
    naked_asm!(
        // Without an argument to return to, so that a backtrace ends here.
        "mov x29, xzr",
        "mov x30, xzr",
        // What can be written is not executed, whatever the tables say.
        "mrs x0, sctlr_el1",
        "orr x0, x0, #(1 << 19)",
        "msr sctlr_el1, x0",
        "isb",
        "msr spsel, #0",
        "adrp x0, stack_end",
        "add x0, x0, :lo12:stack_end",
        "mov sp, x0",
        "b {run}",
        run = sym run,
    )
}

extern "C" fn run() -> ! {
    super::super::run()
}
