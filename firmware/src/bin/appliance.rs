//! The appliance's image for QEMU's machines.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use culvert_firmware::machine::Machine;
    use culvert_firmware::memory::{self, Static};
    use culvert_firmware::{Appliance, arch};

    culvert_firmware::image!(main);

    static TABLES: Static<culvert_core::Appliance> = Static::zeroed();

    fn main() -> ! {
        defmt::info!("culvert {=str}", env!("CARGO_PKG_VERSION"));
        let (Some(tables), Some(mut pool)) = (TABLES.take(), memory::pool()) else {
            // Each is asked for once, here.
            arch::exit(arch::STATUS_PANIC)
        };
        let machine = Machine::new(&mut pool);
        defmt::info!("ready, {=usize} buffers are free", pool.len());
        Appliance::new(machine, tables.gateway(), pool).run()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is for machines without an operating system: build it by ci/bare-metal");
    std::process::exit(2);
}
