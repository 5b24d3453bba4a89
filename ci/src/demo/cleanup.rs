//! Deletes the pods, stops the daemons, and looks for what is left.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::progress::Progress;
use crate::lab::Lab;
use crate::process::run;
use crate::sweep::namespaces_of;

/// Names of the network devices outside the lab.
pub(crate) fn root_devices() -> Result<Vec<String>> {
    let links = run(&["ip", "-o", "link", "show"], "")?;
    let names = links
        .stdout
        .lines()
        .filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(str::to_owned).collect())
}

/// Takes the lab down step by step and demands that nothing is left.
pub(crate) fn take_down(mut lab: Lab, progress: &mut Progress, before: &[String]) -> Result<()> {
    let pods = lab.pods().to_vec();
    progress.step("delete the pods (CNI DEL twice each)", || {
        pods.iter().try_for_each(|pod| lab.delete_pod(&pod.name))
    })?;
    progress.step(
        "no endpoint or route of a pod is left in the daemons",
        || {
            let addresses: Vec<_> = pods.iter().map(|pod| pod.address.to_string()).collect();
            lab.daemons()
                .iter()
                .try_for_each(|node| no_pods(&lab, node, &addresses))
        },
    )?;
    progress.step("stop the daemons", || {
        lab.daemons()
            .iter()
            .try_for_each(|node| lab.stop_daemon(node, Signal::SIGTERM))
    })?;
    lab.stop_guests()?;
    lab.stop_appliances()?;
    progress.step(
        "nothing is left: processes, namespaces, devices, files",
        || nothing_left(lab, before),
    )
}

fn no_pods(lab: &Lab, node: &str, addresses: &[String]) -> Result<()> {
    for table in ["endpoints", "routes"] {
        let printed = lab.culvert(node, &[table, "-o", "json"])?.stdout;
        let value: Value = serde_json::from_str(&printed)
            .with_context(|| format!("`culvert {table} -o json` on {node}: {printed}"))?;
        let mut texts = Vec::new();
        strings(&value, &mut texts);
        let left = texts.iter().find(|text| {
            let host = text.strip_suffix("/32").unwrap_or(text);
            addresses.iter().any(|address| address == host)
        });
        ensure!(
            left.is_none(),
            "{table} of {node}: expected no pod, saw {left:?}"
        );
    }
    Ok(())
}

/// All strings in a JSON value.
fn strings<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, into)),
        Value::Object(map) => map.values().for_each(|value| strings(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn nothing_left(lab: Lab, before: &[String]) -> Result<()> {
    let (tag, dir) = (lab.tag().to_owned(), lab.dir().to_owned());
    let processes = lab.processes();
    ensure!(processes.is_empty(), "processes still run: {processes:?}");
    for namespace in namespaces_of(&tag)? {
        let pids = run(&["ip", "netns", "pids", &namespace], "")?.stdout;
        ensure!(
            pids.trim().is_empty(),
            "processes still run in {namespace}: {}",
            pids.trim()
        );
    }
    lab.take_down()?;
    let namespaces = namespaces_of(&tag)?;
    ensure!(namespaces.is_empty(), "namespaces are left: {namespaces:?}");
    ensure!(!dir.exists(), "{} is left", dir.display());
    let new: Vec<_> = root_devices()?
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    ensure!(new.is_empty(), "devices are left outside the lab: {new:?}");
    Ok(())
}
