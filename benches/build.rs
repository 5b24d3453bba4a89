//! Builds the peers that are not Rust, when their feature asks for them.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=peers/dpdk.c");
    if std::env::var_os("CARGO_FEATURE_PEER_DPDK").is_some() {
        let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
        let program = Path::new(&out).join("dpdk-peer");
        build_dpdk_peer(&program);
        println!("cargo::rustc-env=DPDK_PEER={}", program.display());
    }
}

fn build_dpdk_peer(program: &Path) {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libdpdk"])
        .output()
        .expect("pkg-config must be installed");
    assert!(
        flags.status.success(),
        "the feature peer-dpdk needs DPDK: apt-get install libdpdk-dev"
    );
    let flags = String::from_utf8(flags.stdout).expect("flags are text");
    let built = Command::new("cc")
        .args([
            "-O3",
            "-march=native",
            "-Wall",
            "-Wextra",
            "peers/dpdk.c",
            "-o",
        ])
        .arg(program)
        .args(flags.split_whitespace())
        .status()
        .expect("cc must be installed");
    assert!(built.success(), "peers/dpdk.c does not compile");
}
