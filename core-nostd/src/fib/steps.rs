//! Counts the places in memory that an operation visits, in tests of bounded work.

#[cfg(not(test))]
#[inline(always)]
pub(super) fn count() {}

#[cfg(test)]
extern crate std;

#[cfg(test)]
std::thread_local! {
    static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

#[cfg(test)]
pub(super) fn count() {
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

/// The steps of this thread so far.
#[cfg(test)]
pub(super) fn so_far() -> u64 {
    STEPS.with(core::cell::Cell::get)
}
