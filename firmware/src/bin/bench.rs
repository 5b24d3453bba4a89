//! The image that counts instructions a packet, for QEMU with `-icount shift=0`. Of its
//! machine it uses nothing but the serial line: a line for each case, its name and the
//! instructions of a packet. Ends with 0, or 1 when a case failed or rounds of it
//! differ by more than 1 %.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use core::fmt::{Display, Write};

    use culvert_core::Appliance;
    use culvert_firmware::memory::Static;
    use culvert_firmware::{arch, bench};

    static TABLES: Static<Appliance> = Static::zeroed();

    culvert_firmware::image!(main);

    fn main() -> ! {
        let Some(tables) = TABLES.take() else {
            arch::exit(1)
        };
        let mut status = 0;
        for case in bench::CASES {
            match bench::run(tables, case, arch::instructions) {
                Ok(measured) => {
                    say(measured);
                    if !measured.repeats() {
                        let most = measured.most;
                        say(format_args!(
                            "# {}: rounds differ, up to {most} tenths",
                            case.name
                        ));
                        status = 1;
                    }
                }
                Err(failure) => {
                    say(format_args!("# {failure}"));
                    status = 1;
                }
            }
        }
        arch::exit(status)
    }

    /// Prints a line.
    fn say(line: impl Display) {
        // Writing to the line does not fail.
        let _ = writeln!(Serial, "{line}");
    }

    struct Serial;

    impl Write for Serial {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            arch::serial_write(text.as_bytes());
            Ok(())
        }
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is for machines without an operating system: build it by ci/bare-metal");
    std::process::exit(2);
}
