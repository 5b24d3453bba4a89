//! What no image may do ends it with a fault.

use std::process::{Command, Stdio};

use culvert_core::PortId;
use culvert_core::channel::Role;
use culvert_host::appliance::{Backend, Machine, Nic, Serial};
use culvert_lab::appliance::LIMIT;
use culvert_lab::wait_for;

use crate::images::made;

/// What an image ends with after a fault, as firmware/README.md has it.
const FAULT: u8 = 102;

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn code_and_constants_are_not_written_and_data_is_not_executed() {
    for image in made("trespass") {
        let arch = image.arch;
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
            let mut qemu = command.stdin(Stdio::null()).spawn().unwrap();
            let ended = wait_for("the image's end", LIMIT, || Ok(qemu.try_wait()?));
            let status = ended.unwrap_or_else(|error| {
                qemu.kill().unwrap();
                qemu.wait().unwrap();
                panic!("{arch}: {nics}: {error}")
            });
            let status = arch.image_status(status, false);
            assert_eq!(status, expected, "{arch}: {nics}");
        }
    }
}
