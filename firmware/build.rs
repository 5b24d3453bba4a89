//! Tells the linker where the images lie in memory.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link");
    let of_target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let has = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if of_target("OS") != "none" || !(has("IMAGE") || has("MICROCONTROLLER")) {
        return;
    }
    let scripts: &[&str] = match of_target("ARCH").as_str() {
        "aarch64" => &["aarch64.ld", "defmt.x"],
        "x86_64" => &["x86_64.ld", "defmt.x"],
        // link.x is cortex-m-rt's own and takes in link/memory.x.
        "arm" => &["link.x", "defmt.x"],
        _ => return,
    };
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search={root}/link");
    for script in scripts {
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }
    // Without it segments lie 4 or 64 KiB apart in the file.
    println!("cargo::rustc-link-arg-bins=-zmax-page-size=64");
}
