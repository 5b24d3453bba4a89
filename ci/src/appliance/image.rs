//! The images, each built once in a process.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use culvert_host::appliance::{APPLIANCE, Arch, Build, Image, build, find_source};

/// The architectures that QEMU has virtio for.
pub const ARCHES: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];

/// The image for an architecture.
///
/// # Errors
/// When there is no toolchain for it or the build fails.
pub fn image(arch: Arch, features: &[&str]) -> Result<Image> {
    let image = images(&[arch], features)?.pop();
    image.context("the build has made no image")
}

/// The images for architectures with these features, in their order: built beside each
/// other, once in a process. All images of an architecture have one place, so a process
/// that wants two of them must be done with the first.
///
/// # Errors
/// When there is no toolchain for one or the build fails.
pub fn images(arches: &[Arch], features: &[&str]) -> Result<Vec<Image>> {
    static BUILT: Mutex<Vec<(Vec<String>, Image)>> = Mutex::new(Vec::new());
    let features: Vec<_> = features.iter().map(|&name| name.to_owned()).collect();
    // Held while they are built: whoever else wants them waits.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |arch: &Arch| {
        let mut known = built.iter();
        let found = known.find(|(with, image)| image.arch == *arch && *with == features);
        found.map(|(_, image)| image.clone())
    };
    if let Some(images) = arches.iter().map(known).collect() {
        return Ok(images);
    }
    built.retain(|(_, image)| !arches.contains(&image.arch));
    let source = find_source(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let what = Build {
        arches: arches.to_vec(),
        bin: APPLIANCE,
        features: features.clone(),
        target_dir: None,
    };
    let images = build(source, &what)?;
    built.extend(images.iter().map(|image| (features.clone(), image.clone())));
    Ok(images)
}
