//! `culvert-lab`: the demo, a sweep of what dead labs left, and the tools that
//! the lab runs inside its namespaces.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use culvert_host::appliance::Arch;
use culvert_lab::bench::{self, exchange, forwarder};
use culvert_lab::{Kept, blast, demo, hold, inject, no_panic, sweep, tear_down_on_panic};
use serde::Serialize;

/// Networks of nodes and pods in namespaces of this machine, to try culvert.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build three nodes with two pods each, try everything, measure, take it down.
    Demo {
        /// Leave the lab up and print what to try.
        #[arg(long)]
        keep: bool,
        /// Make all nodes plain Linux: tells a fault of the lab from one of culvert.
        #[arg(long, hide = true)]
        peer_only: bool,
        /// Show one encapsulation with Debian's kernel in QEMU as a peer: vxlan,
        /// ipip, direct or cross-subnet.
        #[arg(long, conflicts_with_all = ["keep", "peer_only"])]
        encap: Option<demo::encap::Mode>,
        /// Over an IPv6 underlay.
        #[arg(long, requires = "encap")]
        ipv6: bool,
        /// Show pods behind an appliance: the image for aarch64 or x86_64 in QEMU.
        #[arg(long, num_args = 0..=1, default_missing_value = "aarch64", value_name = "ARCH",
              conflicts_with_all = ["keep", "peer_only", "encap"])]
        appliance: Option<Arch>,
    },
    /// Measure culvert beside the kernel and others, and write the report.
    Bench {
        /// Three rounds and not seven.
        #[arg(long)]
        quick: bool,
        /// Measure these setups only, and the kernel.
        #[arg(long, value_delimiter = ',', value_name = "SETUP")]
        setups: Vec<String>,
        /// Measure this only.
        #[arg(long, value_delimiter = ',', value_name = "MEASURE")]
        only: Vec<bench::Measure>,
        /// Directory for the report; benches/results for a whole run without it.
        #[arg(long, value_name = "DIRECTORY")]
        out: Option<PathBuf>,
        /// Fail when a ratio of culvert's is worse than in the recorded report, beyond
        /// the noise.
        #[arg(long)]
        check: bool,
    },
    /// Take down what dead labs and kept ones left.
    Sweep,
    /// Send datagrams.
    #[command(hide = true)]
    Blast {
        target: SocketAddrV4,
        #[arg(long)]
        run: u32,
        /// Bytes of each one's payload.
        #[arg(long, default_value_t = blast::PAYLOAD)]
        payload: usize,
        /// To how many addresses.
        #[arg(long, default_value_t = 1)]
        spread: u32,
        /// Datagrams a second; as fast as it goes without it.
        #[arg(long)]
        rate: Option<u64>,
        #[arg(long)]
        time_ms: u64,
    },
    /// Show that the core reaches no panic and no allocator on a target.
    #[command(hide = true)]
    NoPanic {
        #[arg(default_value = "aarch64-unknown-none")]
        target: String,
    },
    /// Receive and count them.
    #[command(hide = true)]
    Sink {
        at: SocketAddrV4,
        #[arg(long)]
        run: u32,
        #[arg(long)]
        limit_ms: u64,
    },
    /// Send datagrams back.
    #[command(hide = true)]
    Echo { at: SocketAddrV4 },
    /// Send requests that are sent back, and time them.
    #[command(hide = true)]
    Requests {
        target: SocketAddrV4,
        #[arg(long)]
        time_ms: u64,
    },
    /// Take connections and close them.
    #[command(hide = true)]
    Accept { at: SocketAddrV4 },
    /// Make connections that are closed.
    #[command(hide = true)]
    Connections {
        target: SocketAddrV4,
        #[arg(long)]
        time_ms: u64,
    },
    /// Forward frames of a TAP device that it makes, as one would first write it.
    #[command(hide = true)]
    Forward {
        device: String,
        local: Ipv4Addr,
        peer: Ipv4Addr,
        vni: u32,
    },
    /// Send raw frames, given in hexadecimal digits, out of a device.
    #[command(hide = true)]
    Inject {
        device: String,
        #[arg(required = true)]
        frames: Vec<String>,
    },
    /// Build a small lab, print its name, and wait (or panic): for the lab's own tests.
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        panic: bool,
        /// Make one of its nodes a guest.
        #[arg(long)]
        guest: bool,
    },
}

fn main() -> ExitCode {
    tear_down_on_panic();
    match act(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo {
            encap: Some(mode),
            ipv6: over_v6,
            ..
        } => demo::encap::run(demo::encap::Case { mode, over_v6 }),
        Verb::Demo {
            appliance: Some(arch),
            ..
        } => demo::appliance::run(arch),
        Verb::Demo {
            keep, peer_only, ..
        } => demo::run(demo::Options { keep, peer_only }),
        Verb::Sweep => {
            let swept = sweep(Kept::Take)?;
            println!(
                "{} labs swept: {} processes ended, {} namespaces deleted",
                swept.labs.len(),
                swept.processes,
                swept.namespaces
            );
            Ok(())
        }
        Verb::Bench {
            quick,
            setups,
            only,
            out,
            check,
        } => bench::run(bench::Options {
            quick,
            setups,
            measures: only,
            out,
            check,
        }),
        Verb::Blast {
            target,
            run,
            payload,
            spread,
            rate,
            time_ms,
        } => {
            let load = blast::Load {
                rate,
                time: Duration::from_millis(time_ms),
                payload,
                spread,
            };
            print_json(&blast::blast(target, run, load)?)
        }
        Verb::Sink { at, run, limit_ms } => {
            let limit = Duration::from_millis(limit_ms);
            print_json(&blast::sink(at, run, limit, listening)?)
        }
        Verb::Echo { at } => exchange::echo(at, listening),
        Verb::Requests { target, time_ms } => {
            print_json(&exchange::requests(target, Duration::from_millis(time_ms))?)
        }
        Verb::Accept { at } => exchange::accept(at, listening),
        Verb::Connections { target, time_ms } => print_json(&exchange::connections(
            target,
            Duration::from_millis(time_ms),
        )?),
        Verb::Forward {
            device,
            local,
            peer,
            vni,
        } => forwarder::forward(&device, (local, peer), vni, || {
            println!("{}", forwarder::READY)
        }),
        Verb::NoPanic { target } => no_panic(&target),
        Verb::Inject { device, frames } => inject(&device, &frames),
        Verb::Hold { panic, guest } => hold(panic, guest),
    }
}

fn listening() {
    println!("{}", blast::LISTENING);
}

fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
