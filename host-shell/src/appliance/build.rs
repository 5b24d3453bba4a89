//! Building images: with the toolchain that `ci/bare-metal` finds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Arch, Error, Image};

/// The program that is the appliance.
pub const APPLIANCE: &str = "appliance";
/// The program that counts instructions.
pub const BENCH: &str = "bench";
/// In the sources: finds a toolchain and builds a package for bare metal.
const SCRIPT: &str = "ci/bare-metal";

/// What to build.
#[derive(Clone, Debug)]
pub struct Build {
    /// For which architectures.
    pub arches: Vec<Arch>,
    /// Which program: [`APPLIANCE`] or [`BENCH`].
    pub bin: &'static str,
    /// Features of the firmware beside `image`.
    pub features: Vec<String>,
    /// Cargo's directory for what it builds; `None` leaves it to the environment.
    pub target_dir: Option<PathBuf>,
}

/// A message of cargo about something that it has built; others have no `executable`.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The directory at or above `from` that has culvert's sources.
///
/// # Errors
/// [`Error::NoSource`].
pub fn find_source(from: &Path) -> Result<&Path, Error> {
    let is_source = |dir: &&Path| {
        let has = |file| dir.join(file).is_file();
        has(SCRIPT) && has("firmware/Cargo.toml")
    };
    let found = from.ancestors().find(is_source);
    found.ok_or_else(|| Error::NoSource(from.to_owned()))
}

/// Builds images from the sources in a directory, and writes each without its symbols
/// beside it. They are in the order of their architectures, and built beside each other
/// where they are of one program. The compiler's messages go to standard error.
///
/// # Errors
/// When there is no toolchain, the build fails, or what it makes is no image.
pub fn build(source: &Path, build: &Build) -> Result<Vec<Image>, Error> {
    let programs = |arch: &Arch| program(*arch, build.bin);
    let mut built = Vec::new();
    for with in build.arches.chunk_by(|a, b| programs(a) == programs(b)) {
        built.extend(build_one(source, build, with)?);
    }
    Ok(built)
}

/// A program's name for an architecture, and the feature that it needs.
fn program(arch: Arch, bin: &'static str) -> (&'static str, &'static str) {
    match (arch, bin) {
        // The microcontroller's drivers are other ones, and so is its program.
        (Arch::CortexM4, APPLIANCE) => ("cortex-m4", "microcontroller"),
        (_, bin) => (bin, "image"),
    }
}

/// Builds one program for architectures that all have it.
fn build_one(source: &Path, build: &Build, arches: &[Arch]) -> Result<Vec<Image>, Error> {
    let Some(first) = arches.first() else {
        return Ok(Vec::new());
    };
    if let Some(arch) = arches.iter().copied().find(|arch| !arch.has(build.bin)) {
        let bin = build.bin.to_owned();
        return Err(Error::NoSuchProgram { arch, bin });
    }
    let (bin, feature) = program(*first, build.bin);
    let features = [&[feature.to_owned()], &build.features[..]].concat();
    let targets: Vec<_> = arches.iter().map(|arch| arch.target()).collect();
    let script = source.join(SCRIPT);
    let mut command = Command::new(&script);
    command
        .args([&targets.join(","), "-p", "culvert-firmware", "--bin", bin])
        .args(["--features", &features.join(","), "--profile", "firmware"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if let Some(dir) = &build.target_dir {
        command.env("CARGO_TARGET_DIR", dir);
    }
    let output = command.output().map_err(|source| Error::Start {
        program: script.display().to_string(),
        source,
    })?;
    if !output.status.success() {
        let (arches, status) = (names(arches), output.status);
        return Err(Error::Build { arches, status });
    }
    let image = |arch: &Arch| {
        let elf = executable(&output.stdout, bin, *arch).ok_or_else(|| Error::NoProgram {
            arch: *arch,
            bin: bin.to_owned(),
        })?;
        Image::read(*arch, &elf)?.strip()
    };
    arches.iter().map(image).collect()
}

fn names(arches: &[Arch]) -> String {
    let names: Vec<_> = arches.iter().map(|arch| arch.name()).collect();
    names.join(", ")
}

/// Where a program is, by the messages that cargo printed.
fn executable(messages: &[u8], bin: &str, arch: Arch) -> Option<PathBuf> {
    let messages = messages.split(|byte| *byte == b'\n');
    let messages = messages.filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    let named = messages.filter(|message| message.target.as_ref().is_some_and(|t| t.name == bin));
    let mut executables = named.filter_map(|message| message.executable);
    // Cargo has a directory for each target.
    executables.find(|path| path.iter().any(|part| part == arch.target()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_found_from_below() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let top = here.parent().unwrap();
        assert_eq!(find_source(&here.join("src/appliance")).unwrap(), top);
        let error = find_source(Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("--source"), "{error}");
    }

    #[test]
    fn the_program_is_where_cargo_says() {
        let lines =
            br#"{"reason":"compiler-artifact","target":{"name":"culvert-core"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"bench"},"executable":"/t/aarch64-unknown-none/bench"}
{"reason":"compiler-artifact","target":{"name":"appliance"},"executable":"/t/x86_64-unknown-none/appliance"}
{"reason":"compiler-artifact","target":{"name":"appliance"},"executable":"/t/aarch64-unknown-none/appliance"}
{"reason":"build-finished","success":true}
"#;
        let found = |bin, arch| executable(lines, bin, arch);
        for arch in [Arch::Aarch64, Arch::X86_64] {
            let appliance = Path::new("/t").join(arch.target()).join(APPLIANCE);
            assert_eq!(found(APPLIANCE, arch), Some(appliance));
        }
        let bench = PathBuf::from("/t/aarch64-unknown-none/bench");
        assert_eq!(found(BENCH, Arch::Aarch64), Some(bench));
        assert_eq!(found(BENCH, Arch::X86_64), None);
        assert_eq!(found("other", Arch::Aarch64), None);
    }
}
