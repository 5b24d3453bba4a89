//! An image that does what none may: as many NICs as it has, that is what it does. It
//! ends with a fault's status then, with 1 when nobody has noticed, and with 0 when there
//! was nothing to do.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use culvert_firmware::arch::trespass;
    use culvert_firmware::machine::Machine;
    use culvert_firmware::{Board, arch, memory};

    culvert_firmware::image!(main);

    fn main() -> ! {
        let Some(mut pool) = memory::pool() else {
            arch::exit(1)
        };
        match Machine::new(&mut pool).nics() {
            1 => trespass::write_constant(),
            2 => trespass::write_code(),
            3 => trespass::execute_data(),
            _ => arch::exit(0),
        }
        arch::exit(1)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is for machines without an operating system: build it by ci/bare-metal");
    std::process::exit(2);
}
