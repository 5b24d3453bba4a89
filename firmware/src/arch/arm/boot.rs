//! From reset to [`crate::image!`]'s function; cortex-m-rt has the vectors, and
//! `link/memory.x` the memory.

#[cortex_m_rt::entry]
fn main() -> ! {
    crate::arch::run()
}
