//! The image for a microcontroller: the same core with small tables, behind one NIC
//! whose 802.1Q tags are the ports. Logs are on the first serial line, and control
//! is on the second.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use culvert_core::Tiny;
    use culvert_core::heapless::Vec;
    use culvert_firmware::arch::{Lan9118, Uart};
    use culvert_firmware::memory::Static;
    use culvert_firmware::mps2::Mps2;
    use culvert_firmware::{Appliance, BUFFER_LEN, Buffer, Pool};

    /// Frames at a time: the NIC keeps some more, so these need not be a whole batch.
    const BUFFERS: usize = 48;

    static MEMORY: Static<[[u8; BUFFER_LEN]; BUFFERS]> = Static::zeroed();
    static FREE: Static<Vec<Buffer, BUFFERS>> = Static::new(Vec::new());
    static TABLES: Static<Tiny> = Static::zeroed();

    culvert_firmware::image!(main);

    fn main() -> ! {
        let nic = match Lan9118::start() {
            Ok(nic) => nic,
            Err(error) => panic!("{error}"),
        };
        let (Some(memory), Some(free), Some(tables)) = (MEMORY.take(), FREE.take(), TABLES.take())
        else {
            panic!("the memory is in use");
        };
        free.extend(memory.iter_mut().map(|buffer| &mut buffer[..]));
        let board = Mps2::new(nic, Uart::start());
        Appliance::new(board, tables.gateway(), Pool::new(free)).run()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is for machines without an operating system: build it by ci/bare-metal");
    std::process::exit(2);
}
