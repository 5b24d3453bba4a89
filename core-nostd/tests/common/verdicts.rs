//! Conservation of frames: each has one verdict.

use culvert_core::{Counter, DropReason, Gateway};

/// The sum of all verdicts, which must equal `rx`.
pub fn sum_of_fates(gateway: &Gateway<'_>) -> u64 {
    let plain = [
        Counter::ForwardEndpoint,
        Counter::ForwardHost,
        Counter::ForwardUnderlay,
        Counter::Reply,
        Counter::Consume,
        Counter::Flood,
        Counter::Punt,
        Counter::Queue,
    ];
    let drops = DropReason::ALL.iter().map(|reason| Counter::Drop(*reason));
    let all = plain.into_iter().chain(drops);
    all.map(|counter| gateway.counter(counter)).sum()
}
