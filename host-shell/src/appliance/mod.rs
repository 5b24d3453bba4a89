//! The appliance: the core on bare metal, as an image that QEMU boots.
//!
//! [`build()`] makes an image, a [`Machine`] is what QEMU gives it, and [`Logs`] decode
//! what it says on its serial line. Its console carries the control channel
//! ([`culvert_core::channel`]).

mod build;
#[cfg(test)]
mod elf;
pub mod key;
mod logs;
mod machine;
pub mod manage;
pub mod noise;
mod sizes;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

pub use build::{APPLIANCE, BENCH, Build, build, find_source};
pub use logs::{Decoder, Entry, Line, Logs};
pub use machine::{Backend, Console, Machine, Nic, Serial, is_complaint};
pub use sizes::{Image, Sizes};

/// A processor architecture that there are images for, and QEMU's machine for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arch {
    /// 64-bit Arm: a Cortex-A72 in QEMU's `virt`.
    Aarch64,
    /// 64-bit x86: QEMU's `microvm`.
    X86_64,
    /// A microcontroller: a Cortex-M4 in QEMU's `mps2-an386`.
    CortexM4,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 3] = [Arch::Aarch64, Arch::X86_64, Arch::CortexM4];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
            Arch::CortexM4 => "cortex-m4",
        }
    }

    /// What the compiler calls it.
    pub const fn target(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64-unknown-none",
            Arch::X86_64 => "x86_64-unknown-none",
            Arch::CortexM4 => "thumbv7em-none-eabihf",
        }
    }

    /// The program that emulates it.
    pub const fn qemu(self) -> &'static str {
        match self {
            Arch::Aarch64 => "qemu-system-aarch64",
            Arch::X86_64 => "qemu-system-x86_64",
            Arch::CortexM4 => "qemu-system-arm",
        }
    }

    /// Debian's package with that program.
    pub const fn qemu_package(self) -> &'static str {
        match self {
            Arch::Aarch64 | Arch::CortexM4 => "qemu-system-arm",
            Arch::X86_64 => "qemu-system-x86",
        }
    }

    /// Whether there is a program ([`APPLIANCE`], [`BENCH`]) for it.
    pub fn has(self, bin: &str) -> bool {
        self != Arch::CortexM4 || bin == APPLIANCE
    }

    /// NICs that the machine has room for, beside console and random numbers.
    pub const fn max_nics(self) -> usize {
        match self {
            Arch::Aarch64 => 30,
            Arch::X86_64 => 6,
            Arch::CortexM4 => 1,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Arch::ALL.into_iter().find(|arch| arch.name() == text);
        found.ok_or_else(|| {
            let names = Arch::ALL.map(Arch::name).join(", ");
            format!("{text:?} is none of the architectures {names}")
        })
    }
}

/// Why an image was not built, started or understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No source tree.
    #[error(
        "{0} and the directories above it are not culvert's sources: say where they are by --source"
    )]
    NoSource(PathBuf),
    /// A program could not be started.
    #[error("cannot start {program}: {source} (ci/setup installs what is missing)")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// QEMU could not be started.
    #[error("cannot start {}: {source} (apt-get install {})", .arch.qemu(), .arch.qemu_package())]
    Qemu {
        /// For which architecture.
        arch: Arch,
        /// Why.
        source: io::Error,
    },
    /// A program that there is not for an architecture.
    #[error(
        "there is no program {bin} for {arch}: it counts by the instruction, which QEMU lets no Cortex-M do"
    )]
    NoSuchProgram {
        /// The architecture.
        arch: Arch,
        /// The program's name.
        bin: String,
    },
    /// The build failed; the compiler has said why.
    #[error("building for {arches} failed: {status}")]
    Build {
        /// For which architectures.
        arches: String,
        /// How the script ended.
        status: std::process::ExitStatus,
    },
    /// The build made no image.
    #[error("the build for {arch} made no program {bin}")]
    NoProgram {
        /// For which architecture.
        arch: Arch,
        /// The program's name.
        bin: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no image, or one without what is needed.
    #[error("{path} is no image of the appliance: {why}")]
    NoImage {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// More NICs than the machine has room for.
    #[error("QEMU's machine for {arch} has room for {} NICs and not for {nics}", .arch.max_nics())]
    TooManyNics {
        /// The machine's architecture.
        arch: Arch,
        /// How many were asked for.
        nics: usize,
    },
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_found_by_name() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse(), Ok(arch));
        }
        let error = "mips".parse::<Arch>().unwrap_err();
        assert!(error.contains("mips") && error.contains("aarch64, x86_64, cortex-m4"));
    }
}
