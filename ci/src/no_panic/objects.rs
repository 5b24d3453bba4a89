//! The object files of the core and all that it is linked with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Builds the probe for a target as `ci/bare-metal` does; returns the libraries
/// that it consists of, the `core` library among them.
pub(super) fn build(target: &str) -> Result<Vec<PathBuf>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = Command::new(root.join("ci/bare-metal"))
        .args([target, "-p", "culvert-probe"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run ci/bare-metal")?;
    if !output.status.success() {
        bail!("ci/bare-metal {target} failed");
    }
    let mut libraries = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Message>(line) else {
            continue; // The end of the output, or something that is not cargo's.
        };
        if message.reason == "compiler-artifact" {
            let files = message.filenames.into_iter();
            libraries.extend(files.filter(|file| is_library_for(file, target)));
        }
    }
    if !libraries.iter().any(|file| is_crate(file, "culvert_core")) {
        bail!("cargo named no library of culvert_core");
    }
    if !libraries.iter().any(|file| is_crate(file, "core")) {
        libraries.extend(installed(target)?);
    }
    Ok(libraries)
}

/// Whether a file is a library of the target's; the others are the compiler's plugins.
fn is_library_for(file: &Path, target: &str) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "rlib")
        && file.components().any(|part| part.as_os_str() == target)
}

fn is_crate(file: &Path, name: &str) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.and_then(|stem| stem.strip_prefix("lib"));
    stem.is_some_and(|stem| stem.split('-').next() == Some(name))
}

/// The libraries that rustup installed for a target.
fn installed(target: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("cannot run rustc")?;
    let directory = String::from_utf8(output.stdout)?;
    let directory = directory.trim_end();
    let mut libraries = Vec::new();
    for name in ["core", "alloc", "compiler_builtins"] {
        let mut entries = std::fs::read_dir(directory)
            .with_context(|| format!("cannot read {directory}"))?
            .map_while(Result::ok)
            .map(|entry| entry.path());
        let found = entries.find(|file| is_library_for(file, target) && is_crate(file, name));
        libraries.push(found.with_context(|| format!("no {name} library in {directory}"))?);
    }
    Ok(libraries)
}
