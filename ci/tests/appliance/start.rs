//! How soon an image forwards, and what it takes while there is nothing to do.

use std::thread;
use std::time::Duration;

use crate::images::{ARCHES, boot};
use crate::world::{delivered, forwards, packet, program, three};

/// From QEMU's start to the first forwarded frame.
const SOON: Duration = Duration::from_millis(100);
/// Starts, until one is fast enough.
const STARTS: usize = 10;
/// How long an image is watched doing nothing.
const WATCHED: Duration = Duration::from_secs(2);
/// What that may take, in steps of 10 ms.
const IDLE: Duration = Duration::from_millis(40);

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn the_first_frame_is_forwarded_soon() {
    for arch in ARCHES {
        let mut best = (Duration::MAX, Duration::MAX);
        for _ in 0..STARTS {
            let mut guest = boot(arch, &three());
            program(&mut guest.outside);
            guest.outside.wires()[1].send(&packet()).unwrap();
            let got = guest.outside.wires()[2].receive(Duration::from_secs(5));
            let (passed, worked) = (guest.started.elapsed(), guest.processor_time().unwrap());
            assert_eq!(got.unwrap(), Some(delivered()));
            best = (best.0.min(passed), best.1.min(worked));
            if passed <= SOON {
                break;
            }
        }
        let (passed, worked) = best;
        println!("{arch}: first frame forwarded after {passed:?}, {worked:?} of processor time");
        // On a machine that does other work only the second says something.
        assert!(passed.min(worked) <= SOON, "{arch}: {passed:?}, {worked:?}");
    }
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn an_idle_image_takes_no_processor() {
    for arch in ARCHES {
        let mut guest = boot(arch, &three());
        program(&mut guest.outside);
        forwards(&mut guest.outside);
        let before = guest.processor_time().unwrap();
        thread::sleep(WATCHED);
        let taken = guest.processor_time().unwrap() - before;
        println!("{arch}: {taken:?} of processor time in {WATCHED:?}");
        assert!(taken <= IDLE, "{arch}: {taken:?} of {WATCHED:?}");
        // It was asleep and not dead.
        forwards(&mut guest.outside);
    }
}
