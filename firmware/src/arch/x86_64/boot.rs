//! From the first instruction to `run`: PVH starts in 32 bits without paging; this maps
//! memory to its own addresses and enters long mode.

use core::arch::global_asm;
use core::ptr;

/// A translation table's entry: a pointer, so that one table can be linked to another.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(*const u8);

/// A translation table.
#[repr(C, align(4096))]
struct Table([Entry; 512]);

// SAFETY: only the MMU follows these pointers.
unsafe impl Sync for Table {}

/// Present and writable.
const PRESENT: usize = 1 | 1 << 1;
/// Not cached.
const DEVICE: usize = 1 << 4;
/// Accessed and dirty: the processor has nothing to write there.
const USED: usize = 1 << 5 | 1 << 6;
/// At the second level: 2 MiB of memory.
const LARGE: usize = 1 << 7;

const NOTHING: Entry = Entry(ptr::null());

const fn table(table: &'static Table) -> Entry {
    Entry(
        (&raw const *table)
            .cast::<u8>()
            .wrapping_byte_add(PRESENT | 1 << 5),
    )
}

const fn gigabyte(number: usize, attributes: usize) -> [Entry; 512] {
    let mut entries = [NOTHING; 512];
    let mut i = 0;
    while i < 512 {
        let address = (number << 30) + (i << 21);
        entries[i] = Entry(ptr::without_provenance(
            address | PRESENT | USED | LARGE | attributes,
        ));
        i += 1;
    }
    entries
}

static LEVEL4: Table = {
    let mut entries = [NOTHING; 512];
    entries[0] = table(&LEVEL3);
    Table(entries)
};

/// The first GiB, of memory, and the fourth, of devices.
static LEVEL3: Table = {
    let mut entries = [NOTHING; 512];
    entries[0] = table(&MEMORY);
    entries[3] = table(&DEVICES);
    Table(entries)
};

static MEMORY: Table = {
    let mut entries = gigabyte(0, 0);
    // Below the stack.
    entries[0] = NOTHING;
    Table(entries)
};

static DEVICES: Table = Table(gigabyte(3, DEVICE));

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY: where PVH starts.
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

    .section .text.pvh_entry, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cld
    cli
    mov edi, offset bss_begin
    mov ecx, offset bss_end
    xor eax, eax
2:  cmp edi, ecx
    jae 3f
    "#,
    // Eight words a turn: emulators repeat `rep stos` word by word.
    r#"
    mov [edi], eax
    mov [edi + 4], eax
    mov [edi + 8], eax
    mov [edi + 12], eax
    mov [edi + 16], eax
    mov [edi + 20], eax
    mov [edi + 24], eax
    mov [edi + 28], eax
    mov [edi + 32], eax
    mov [edi + 36], eax
    mov [edi + 40], eax
    mov [edi + 44], eax
    mov [edi + 48], eax
    mov [edi + 52], eax
    mov [edi + 56], eax
    mov [edi + 60], eax
    add edi, 64
    jmp 2b
3:  mov eax, offset {level4}
    mov cr3, eax
    "#,
    // Physical address extension.
    r#"
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    "#,
    // EFER: long mode.
    r#"
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    "#,
    // Paging, write protection; caches on.
    r#"
    mov eax, cr0
    or eax, (1 << 31) | (1 << 16)
    and eax, ~((1 << 30) | (1 << 29))
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    "#,
    // A far jump, which the assembler cannot write in this syntax: to segment 8.
    r#"
    .byte 0xea
    .long long_mode
    .word 8

    .code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, offset stack_end
    xor ebp, ebp
    call {run}
    ud2

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00209b0000000000
boot_gdt_pointer:
    .word 15
    .long boot_gdt
    "#,
    level4 = sym LEVEL4,
    run = sym run,
);

extern "C" fn run() -> ! {
    super::super::run()
}
