//! What no image may do ends it with a fault.

use std::process::{Command, Stdio};

use culvert_core::PortId;
use culvert_core::channel::Role;
use culvert_host::appliance::{Backend, Machine, Nic, Serial};

use crate::images::{ARCHES, made};

/// What an image ends with after a fault, as firmware/README.md has it.
const FAULT: u8 = 102;

#[test]
fn code_and_constants_are_not_written_and_data_is_not_executed() {
    for arch in ARCHES {
        let image = made(arch, "trespass");
        let dir = tempfile::tempdir().unwrap();
        // Nothing, a write to a constant, one to code, and a call of data.
        for (nics, expected) in (0..).zip([0, FAULT, FAULT, FAULT]) {
            let nic = |number| Nic::new(Role::Port(PortId(number)), Backend::Nothing);
            let machine = Machine {
                nics: (0..nics).map(nic).collect(),
                serial: Serial::File(dir.path().join("serial")),
                ..Machine::new(arch, &image.stripped)
            };
            let mut command: Command = machine.command().unwrap();
            let status = command.stdin(Stdio::null()).status().unwrap();
            let status = arch.image_status(status, false);
            assert_eq!(status, expected, "{arch}: {nics}");
        }
    }
}
