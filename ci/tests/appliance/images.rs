//! The images, running.

use std::path::Path;

use culvert_core::MacAddr;
use culvert_host::appliance::{Arch, Build, Image, build, find_source};
pub(crate) use culvert_lab::appliance::ARCHES;
use culvert_lab::appliance::{Guest, Options, images};

/// Captures are compared byte for byte, times included.
const FEATURES: &[&str] = &["held-clock"];

/// The image for an architecture.
pub(crate) fn image(arch: Arch) -> Image {
    // Nearly every test wants both of QEMU's virtio machines.
    let together = match arch {
        Arch::Aarch64 | Arch::X86_64 => &ARCHES[..],
        Arch::CortexM4 => &[Arch::CortexM4],
    };
    let images = images(together, FEATURES).unwrap_or_else(|error| panic!("{error:#}"));
    let mut images = images.into_iter();
    images.find(|image| image.arch == arch).unwrap()
}

/// Another program's images, for [`ARCHES`].
pub(crate) fn made(bin: &'static str) -> Vec<Image> {
    let source = find_source(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let what = Build {
        arches: ARCHES.to_vec(),
        bin,
        features: FEATURES.iter().map(|&name| name.to_owned()).collect(),
        target_dir: None,
    };
    build(source, &what).unwrap_or_else(|error| panic!("{error}"))
}

/// An image that runs, with NICs of these MAC addresses.
pub(crate) fn boot(arch: Arch, nics: &[MacAddr]) -> Guest {
    let options = Options {
        nics: nics.to_vec(),
        ..Options::default()
    };
    Guest::start(&image(arch), &options).unwrap_or_else(|error| panic!("{arch}: {error:#}"))
}
