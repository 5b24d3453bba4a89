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
    /// For which architecture.
    pub arch: Arch,
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

/// Builds an image from the sources in a directory, and writes it without its symbols
/// beside it. The compiler's messages go to standard error.
///
/// # Errors
/// When there is no toolchain, the build fails, or what it makes is no image.
pub fn build(source: &Path, build: &Build) -> Result<Image, Error> {
    let Build { arch, bin, .. } = *build;
    // The microcontroller's drivers are other ones, and so is its program.
    let (bin, feature) = match (arch, bin) {
        (Arch::CortexM4, APPLIANCE) => ("cortex-m4", "microcontroller"),
        (_, bin) => (bin, "image"),
    };
    let features = [&[feature.to_owned()], &build.features[..]].concat();
    let script = source.join(SCRIPT);
    let mut command = Command::new(&script);
    command
        .args([arch.target(), "-p", "culvert-firmware", "--bin", bin])
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
        let status = output.status;
        return Err(Error::Build { arch, status });
    }
    let elf = executable(&output.stdout, bin).ok_or_else(|| Error::NoProgram {
        arch,
        bin: bin.to_owned(),
    })?;
    Image::read(arch, &elf)?.strip()
}

/// Where a program is, by the messages that cargo printed.
fn executable(messages: &[u8], bin: &str) -> Option<PathBuf> {
    let messages = messages.split(|byte| *byte == b'\n');
    let mut messages = messages.filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    messages.find_map(|message| match message.target?.name == bin {
        true => message.executable,
        false => None,
    })
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
{"reason":"compiler-artifact","target":{"name":"bench"},"executable":"/t/bench"}
{"reason":"compiler-artifact","target":{"name":"appliance"},"executable":"/t/appliance"}
{"reason":"build-finished","success":true}
"#;
        let found = |bin| executable(lines, bin);
        assert_eq!(found(APPLIANCE), Some(PathBuf::from("/t/appliance")));
        assert_eq!(found(BENCH), Some(PathBuf::from("/t/bench")));
        assert_eq!(found("other"), None);
    }
}
