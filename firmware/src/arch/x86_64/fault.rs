//! Exceptions, each of which ends everything, and the handlers of interrupts, which
//! note who called.

use core::arch::{asm, global_asm};
use core::mem::size_of;

use super::apic;
use crate::arch::{STATUS_FAULT, exit};
use crate::memory::Static;

/// Bytes of the exceptions' stack: the other one may be the trouble.
const STACK: usize = 16 << 10;

/// Vectors that have a handler of 16 bytes each: exceptions, then interrupts.
const HANDLERS: usize = 64;

/// Segments: the code's, which boot has loaded already, and the task state's.
const CODE: u16 = 8;
const TASK: u16 = 16;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

static EXCEPTION_STACK: Static<Stack> = Static::new(Stack([0; STACK]));
static TASK_STATE: Static<TaskState> = Static::new(TaskState([0; 26]));
static SEGMENTS: Static<[u64; 4]> = Static::new([0, 0x0020_9b00_0000_0000, 0, 0]);
static INTERRUPTS: Static<[[u64; 2]; 256]> = Static::new([[0; 2]; 256]);

/// The task state segment, in halves of 64-bit words: only the stack for exceptions
/// means anything.
#[repr(C, align(8))]
struct TaskState([u32; 26]);

/// Bytes of it.
const TASK_LEN: u32 = 26 * 4;

/// What `lgdt` and `lidt` read.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

impl Pointer {
    fn of<T>(table: &'static mut T) -> Self {
        Pointer {
            limit: u16::try_from(size_of::<T>() - 1).unwrap_or(u16::MAX),
            base: (&raw mut *table).expose_provenance() as u64,
        }
    }
}

unsafe extern "C" {
    /// The handlers' code.
    static handlers: u8;
    /// The handler that does nothing.
    static spurious_handler: u8;
}

pub(super) fn start() {
    let (Some(stack), Some(task), Some(segments), Some(interrupts)) = (
        EXCEPTION_STACK.take(),
        TASK_STATE.take(),
        SEGMENTS.take(),
        INTERRUPTS.take(),
    ) else {
        return;
    };
    let top = (&raw mut *stack).expose_provenance() as u64 + STACK as u64;
    // IST1, 36 bytes behind the start, and where I/O permissions are: behind the end.
    let [a, b, c, d, e, f, g, h] = top.to_le_bytes();
    task.0[9] = u32::from_le_bytes([a, b, c, d]);
    task.0[10] = u32::from_le_bytes([e, f, g, h]);
    task.0[25] = TASK_LEN << 16;
    let limit = u64::from(TASK_LEN) - 1;
    let task = (&raw mut *task).expose_provenance() as u64;
    // An available task state segment of 64 bits.
    let low = limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    segments[2] = low;
    segments[3] = task >> 32;

    let first = (&raw const handlers).expose_provenance();
    for (vector, gate) in interrupts.iter_mut().take(HANDLERS).enumerate() {
        let stack = u64::from(vector < apic::FIRST_VECTOR as usize);
        *gate = interrupt_gate(first + vector * 16, stack);
    }
    let spurious = (&raw const spurious_handler).expose_provenance();
    interrupts[apic::SPURIOUS_VECTOR as usize] = interrupt_gate(spurious, 0);

    let segments = Pointer::of(segments);
    let interrupts = Pointer::of(interrupts);
    // SAFETY: both tables stay where they are for ever; the code's segment is the same
    // as in the table before.
    unsafe {
        asm!(
            "lgdt [{}]",
            "lidt [{}]",
            "ltr {:x}",
            in(reg) &raw const segments,
            in(reg) &raw const interrupts,
            in(reg) TASK,
            options(nostack, preserves_flags),
        );
    }
}

/// An entry of the interrupt table: a handler, and the number of its stack, 0 for the
/// present one.
fn interrupt_gate(handler: usize, stack: u64) -> [u64; 2] {
    let handler = handler as u64;
    let low = handler & 0xffff | u64::from(CODE) << 16 | stack << 32;
    [
        low | 0x8e << 40 | (handler >> 16 & 0xffff) << 48,
        handler >> 32,
    ]
}

global_asm!(
    r#"
    .section .text.handlers, "ax"
    .balign 16
handlers:
    .set vector, 0
    .rept 32
        .balign 16
        .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21 && vector != 29 && vector != 30
            push 0
        .endif
        push vector
        jmp fault
        .set vector, vector + 1
    .endr
    .set vector, 0
    .rept 32
        .balign 16
        push rax
        mov eax, vector
        jmp wake
        .set vector, vector + 1
    .endr

wake:
    lock bts dword ptr [{wakers}], eax
    "#,
    // End of interrupt, in the local APIC.
    r#"
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
spurious_handler:
    iretq

fault:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
    cld
    mov rdi, rsp
    and rsp, -16
    call {report}
    ud2
    "#,
    wakers = sym apic::WAKERS,
    report = sym report,
);

/// What `fault` and the processor leave on the stack.
#[repr(C)]
struct State {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
}

extern "C" fn report(state: &State) -> ! {
    let address: u64;
    // SAFETY: reading this register changes nothing.
    unsafe {
        asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags));
    }
    defmt::error!(
        "exception {=u64} at {=u64:#x}: error {=u64:#x}, CR2 {=u64:#x}, RSP {=u64:#x}, flags {=u64:#x}, CS {=u64:#x}",
        state.vector,
        state.rip,
        state.error,
        address,
        state.rsp,
        state.flags,
        state.cs,
    );
    defmt::error!(
        "rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 and on: {:#x}",
        state.registers.as_slice()
    );
    exit(STATUS_FAULT)
}
