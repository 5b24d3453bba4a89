//! The images, each built once.

use std::path::Path;
use std::sync::OnceLock;

use culvert_core::MacAddr;
use culvert_host::appliance::{APPLIANCE, Arch, Build, Image, build, find_source};
use culvert_lab::appliance::{Guest, Options};

/// The architectures that QEMU has virtio for.
pub(crate) const ARCHES: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];

/// The image for an architecture.
pub(crate) fn image(arch: Arch) -> &'static Image {
    static IMAGES: [OnceLock<Image>; 3] = [const { OnceLock::new() }; 3];
    let at = Arch::ALL.iter().position(|known| *known == arch).unwrap();
    IMAGES[at].get_or_init(|| made(arch, APPLIANCE))
}

/// Another program's image.
pub(crate) fn made(arch: Arch, bin: &'static str) -> Image {
    let source = find_source(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    // Where this test was built, whatever the environment says of another place.
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let what = Build {
        arch,
        bin,
        // Captures are compared byte for byte.
        features: vec!["held-clock".to_owned()],
        target_dir: target_dir.map(Path::to_owned),
    };
    build(source, &what).unwrap_or_else(|error| panic!("{error}"))
}

/// An image that runs, with NICs of these MAC addresses.
pub(crate) fn boot(arch: Arch, nics: &[MacAddr]) -> Guest {
    let options = Options {
        nics: nics.to_vec(),
        ..Options::default()
    };
    Guest::start(image(arch), &options).unwrap_or_else(|error| panic!("{arch}: {error:#}"))
}
