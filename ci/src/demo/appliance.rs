//! An appliance: pods behind the image in QEMU talk with pods on a culvert node and on
//! a kernel-vxlan node, and talk again after it has been off its power.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets};
use culvert_host::appliance::Arch;

use super::progress::Progress;
use super::{PORT, cleanup};
use crate::appliance::image;
use crate::lab::{Lab, Pod};
use crate::measure::Load;
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan};
use crate::process::wait_for;

/// The node with the appliance.
const NODE: &str = "a1";
/// The pods: name and node.
const PODS: [(&str, &str); 4] = [("pa", NODE), ("pb", NODE), ("p2", "n2"), ("p3", "n3")];
/// Echo requests from each to each.
const COUNT: u32 = 5;
/// How long pods may be without each other after the appliance has its power again.
const RECOVERY: Duration = Duration::from_secs(20);
/// How long an ADD may take to say that it cannot be done.
const REFUSAL: Duration = Duration::from_secs(5);

/// Builds the nodes, shows that their pods talk, reboots the appliance and shows that
/// they talk again.
///
/// # Errors
/// The first thing that did not hold: which step, what was expected, what was seen.
pub fn run(arch: Arch) -> Result<()> {
    let mut progress = Progress::start();
    let before = cleanup::root_devices()?;
    let built = progress.step(&format!("build the image for {arch}"), || image(arch, &[]))?;
    let mut lab = progress.step(
        "build three nodes, boot the appliance, start the daemons",
        || Lab::new(plan(arch)),
    )?;
    if let Err(error) = show(&mut lab, &mut progress) {
        eprint!("{}", lab.log_tails(20));
        eprintln!("{}", lab.appliance_log(NODE)?);
        for (node, subject) in [(NODE, "status"), (NODE, "counters"), ("n2", "counters")] {
            if let Ok(said) = lab.culvert(node, &[subject]) {
                eprintln!("--- {subject} of {node}\n{}", said.stdout.trim_end());
            }
        }
        return Err(error);
    }
    let (sizes, log) = (built.sizes, lab.appliance_log(NODE)?);
    cleanup::take_down(lab, &mut progress, &before)?;
    println!("\nWhat the appliance said:\n{log}");
    println!(
        "The image has {} KiB; it keeps {} KiB of variables, tables and frames.",
        sizes.stripped.div_ceil(1024),
        sizes.ram.div_ceil(1024)
    );
    println!("\nAll of it held ({:.0} s).", progress.seconds());
    Ok(())
}

fn plan(arch: Arch) -> Plan {
    let network = NetworkPlan {
        udp_port: PORT,
        nodes: vec![
            NodePlan::new(NODE, NodeKind::Appliance(arch), 1),
            NodePlan::new("n2", NodeKind::Culvert, 2),
            NodePlan::new("n3", NodeKind::Kernel, 3),
        ],
        ..NetworkPlan::default()
    };
    Plan {
        mtu: 1500,
        networks: vec![network],
    }
}

fn show(lab: &mut Lab, progress: &mut Progress) -> Result<()> {
    progress.step("add the pods", || {
        PODS.iter()
            .try_for_each(|(pod, node)| lab.add_pod(node, pod).map(drop))
    })?;
    // While a neighbor is asked for, the core keeps one packet for it and no more.
    progress.step("everyone finds everyone", || meet(lab))?;
    let table = progress.step("everyone pings everyone", || pings(lab))?;
    let rates = progress.step(
        "TCP between a pod behind the appliance and the others",
        || rates(lab),
    )?;
    progress.step("take the appliance off its power", || {
        lab.stop_appliance(NODE)
    })?;
    let refused = progress.step("an ADD says within 5 s that the appliance is gone", || {
        refused(lab)
    })?;
    progress.step("give it its power back", || lab.start_appliance(NODE))?;
    let recovered = progress.step("the same pods talk again, as they were", || recover(lab))?;
    progress.step("everyone finds everyone again", || meet(lab))?;
    progress.step("everyone pings everyone", || pings(lab))?;
    let faults = lab.appliance_faults(NODE);
    ensure!(faults.is_empty(), "QEMU says of the image: {faults}");
    println!("\n{table}\n{rates}");
    println!("While it was off, CNI ADD said: {refused}");
    println!(
        "The pods talked again {:.1} s after it had its power back.",
        recovered.as_secs_f64()
    );
    let status = lab.culvert(NODE, &["status"])?;
    println!("\n{}", status.stdout.trim_end());
    Ok(())
}

/// The pods of others than this one.
fn others<'l>(lab: &'l Lab, pod: &Pod) -> impl Iterator<Item = &'l Pod> {
    let name = pod.name.clone();
    lab.pods().iter().filter(move |other| other.name != name)
}

/// Lets everyone reach everyone once.
fn meet(lab: &Lab) -> Result<()> {
    for from in lab.pods() {
        for to in others(lab, from) {
            reach(lab, from, to)?;
        }
    }
    Ok(())
}

/// Waits until a pod is answered by another.
fn reach(lab: &Lab, from: &Pod, to: &Pod) -> Result<()> {
    let what = format!("{} reaches {}", from.name, to.name);
    wait_for(&what, RECOVERY, || {
        let ping = lab.ping(&from.name, to.address, 1)?;
        Ok((ping.received == 1).then_some(()))
    })
}

/// Lets everyone ping everyone.
fn pings(lab: &Lab) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["from", "to", "answered", "round trip"]);
    for from in lab.pods() {
        for to in others(lab, from) {
            let ping = lab.ping(&from.name, to.address, COUNT)?;
            ensure!(
                ping.received == COUNT,
                "{} on {} to {} on {}: {} of {COUNT} answered",
                from.name,
                from.node,
                to.name,
                to.node,
                ping.received
            );
            table.add_row([
                format!("{} on {}", from.name, from.node),
                format!("{} on {}", to.name, to.node),
                format!("{} of {COUNT}", ping.received),
                format!("{:.2} ms", ping.avg_ms),
            ]);
        }
    }
    Ok(table)
}

/// TCP from the first pod to each other, and back.
fn rates(lab: &Lab) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["with", "Mbit/s to it", "Mbit/s from it"]);
    let own = lab.pod("pa")?.clone();
    for other in others(lab, &own) {
        let run = |from: &Pod, to: &Pod| {
            let time = Duration::from_secs(1);
            lab.iperf(&from.name, (&to.name, to.address), Load::Tcp, time)
        };
        let (there, back) = (run(&own, other)?, run(other, &own)?);
        ensure!(
            there.gbits > 0.0 && back.gbits > 0.0,
            "no TCP between {} and {}",
            own.name,
            other.name
        );
        table.add_row([
            format!("{} on {}", other.name, other.node),
            format!("{:.0}", there.gbits * 1000.0),
            format!("{:.0}", back.gbits * 1000.0),
        ]);
    }
    Ok(table)
}

/// Tries to add a pod; returns what was said instead.
fn refused(lab: &Lab) -> Result<String> {
    lab.add_place("late")?;
    let began = Instant::now();
    let answer = lab.call("ADD", NODE, "late").answer()?;
    let took = began.elapsed();
    lab.delete_place("late")?;
    let code = answer
        .code()
        .context("an ADD without an appliance succeeded")?;
    ensure!(
        code == 11 || code == 50,
        "code {code} is neither 11 nor 50: {}",
        answer.message()
    );
    ensure!(took < REFUSAL, "it took {:.1} s", took.as_secs_f64());
    Ok(format!("code {code}, {}", answer.message().trim_end()))
}

/// Waits until the pods behind the appliance reach the others again.
fn recover(lab: &Lab) -> Result<Duration> {
    let began = Instant::now();
    let own = lab.pod("pa")?.clone();
    for other in others(lab, &own) {
        reach(lab, &own, other)?;
    }
    let took = began.elapsed();
    for pod in lab.pods().iter().filter(|pod| pod.node == NODE) {
        let mut check = lab.call("CHECK", NODE, &pod.name);
        check = check.env("CNI_CONTAINERID", &pod.container);
        let Some(result) = &pod.result else {
            bail!("{} has no CNI result", pod.name)
        };
        let answer = check.key("prevResult", result.clone()).answer()?;
        ensure!(
            answer.success,
            "CHECK of {}: {}",
            pod.name,
            answer.message()
        );
    }
    Ok(took)
}
