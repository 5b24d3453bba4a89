//! The appliance's image for QEMU's machines.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use culvert_firmware::machine::Machine;
    use culvert_firmware::memory::{self, Static};
    use culvert_firmware::{Appliance, arch};

    culvert_firmware::image!(main);

    /// For the management port's authentication, which nothing else allocates beside.
    #[cfg(feature = "management-auth")]
    #[global_allocator]
    static HEAP: emballoc::Allocator<{ culvert_firmware::HEAP }> = emballoc::Allocator::new();
    #[cfg(feature = "management-auth")]
    static ROOM: Static<culvert_firmware::Room> = Static::new(culvert_firmware::Room::new());

    static TABLES: Static<culvert_core::Appliance> = Static::zeroed();

    fn main() -> ! {
        defmt::info!("culvert {=str}", env!("CARGO_PKG_VERSION"));
        let (Some(tables), Some(mut pool)) = (TABLES.take(), memory::pool()) else {
            // Each is asked for once, here.
            arch::exit(arch::STATUS_PANIC)
        };
        let machine = Machine::new(&mut pool);
        defmt::info!("ready, {=usize} buffers are free", pool.len());
        let mut appliance = Appliance::new(machine, tables.gateway(), pool);
        #[cfg(feature = "management-auth")]
        if let Some(room) = ROOM.take() {
            appliance.authenticate(room);
        }
        appliance.run()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is for machines without an operating system: build it by ci/bare-metal");
    std::process::exit(2);
}
