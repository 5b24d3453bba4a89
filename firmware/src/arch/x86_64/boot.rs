//! From the first instruction to `run`: PVH starts in 32 bits without paging; this maps
//! memory to its own addresses and enters long mode.

use core::arch::global_asm;

const PRESENT: u32 = 1;
const WRITABLE: u32 = 1 << 1;
/// In the upper half of an entry: nobody executes what is there.
const EXECUTE_NEVER: u32 = 1 << 31;
/// Not cached.
const DEVICE: u32 = 1 << 4;
/// Accessed and dirty: the processor has nothing to write there.
const USED: u32 = 1 << 5 | 1 << 6;
/// At the second level: 2 MiB of memory.
const LARGE: u32 = 1 << 7;

/// Bytes of memory that an entry of the second level maps.
const MAPPED: u32 = 1 << 21;

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
3:
    "#,
    // The translation tables: the first GiB, of memory, and the fourth, of devices. Made
    // here, because an image would be 16 KiB larger with them. Entries are of 64 bits.
    r#"
    mov dword ptr [level4], offset level3 + {table}
    mov dword ptr [level3], offset memory + {table}
    mov dword ptr [level3 + 3 * 8], offset devices + {table}
    mov eax, {memory}
    mov edx, (3 << 30) + {device}
    xor ecx, ecx
4:  mov [memory + ecx * 8], eax
    mov dword ptr [memory + ecx * 8 + 4], {never}
    mov [devices + ecx * 8], edx
    mov dword ptr [devices + ecx * 8 + 4], {never}
    add eax, {mapped}
    add edx, {mapped}
    inc ecx
    cmp ecx, 512
    jne 4b
    "#,
    // Nothing below the stack; code and constants, where link/x86_64.ld puts them.
    r#"
    mov dword ptr [memory], 0
    and dword ptr [memory + 2 * 8], {read_only}
    mov dword ptr [memory + 2 * 8 + 4], 0
    and dword ptr [memory + 3 * 8], {read_only}
    mov eax, offset level4
    mov cr3, eax
    "#,
    // Physical address extension.
    r#"
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    "#,
    // EFER: long mode, and memory that is not executed.
    r#"
    mov ecx, 0xc0000080
    rdmsr
    or eax, (1 << 8) | (1 << 11)
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

    .section .bss.translation, "aw", @nobits
    .balign 4096
level4:
    .skip 4096
level3:
    .skip 4096
memory:
    .skip 4096
devices:
    .skip 4096
    .text
    "#,
    table = const PRESENT | WRITABLE | 1 << 5,
    memory = const PRESENT | WRITABLE | USED | LARGE,
    device = const PRESENT | WRITABLE | USED | LARGE | DEVICE,
    never = const EXECUTE_NEVER,
    read_only = const !WRITABLE,
    mapped = const MAPPED,
    run = sym run,
);

extern "C" fn run() -> ! {
    super::super::run()
}
