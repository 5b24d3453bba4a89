//! A node with Open vSwitch in user space: the netdev datapath, a VXLAN port, the pod by
//! a veth, all as its documentation has it ("Open vSwitch without kernel support",
//! "Userspace tunneling"). Database, sockets and logs are in the lab's directory; its
//! programs are unpacked by `ci/setup --peers` and run from there, so that no service of
//! the machine's is involved.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::culvert::own_dir;
use crate::lab::Lab;
use crate::process::{run, wait_for};
use crate::service::Service;

/// How long the switch may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running switch; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Switch {
    _daemon: Service,
    _database: Service,
}

/// What a switch is to join.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joint<'a> {
    pub(super) node: &'a str,
    pub(super) local: Ipv4Addr,
    pub(super) peer: Ipv4Addr,
    pub(super) vni: u32,
    pub(super) pod: &'a str,
    pub(super) address: Ipv4Addr,
}

/// Where the unpacked programs are.
fn root() -> Result<PathBuf> {
    let root = own_dir()?.join("../peers/openvswitch");
    ensure!(
        root.is_dir(),
        "Open vSwitch is not there: run ci/setup --peers"
    );
    Ok(root.canonicalize()?)
}

/// Starts the switch of a bare node and joins a pod to it.
///
/// # Errors
/// When it is not there, or what its programs said.
pub(super) fn start(lab: &Lab, joint: Joint) -> Result<Switch> {
    let root = root()?;
    let dir = lab.dir().join(joint.node);
    fs::create_dir_all(&dir)?;
    let program = |name: &str| root.join("usr").join(name).display().to_string();
    let schema = program("share/openvswitch/vswitch.ovsschema");
    let (conf, at) = (dir.join("conf.db"), dir.display());
    let tool = program("bin/ovsdb-tool");
    run(&[&tool, "create", &conf.display().to_string(), &schema], "")?;
    let places = [
        format!("OVS_RUNDIR={at}"),
        format!("OVS_LOGDIR={at}"),
        format!("OVS_DBDIR={at}"),
    ];
    let spawn = |name: &str, last: &str, control: &str| {
        let program = program(name);
        let unixctl = format!("--unixctl={at}/{control}");
        let mut argv = vec![
            "env", &places[0], &places[1], &places[2], &program, last, &unixctl,
        ];
        let remote = format!("--remote=punix:{at}/db.sock");
        if control == "db.ctl" {
            argv.push(&remote);
        }
        lab.spawn(joint.node, &argv, |_| true)
    };
    let database = spawn("sbin/ovsdb-server", &conf.display().to_string(), "db.ctl")?;
    appears(&dir.join("db.sock"))?;
    let socket = format!("unix:{at}/db.sock");
    let vsctl = |args: &[&str]| {
        let (program, db) = (program("bin/ovs-vsctl"), format!("--db={socket}"));
        let mut argv = vec![program.as_str(), &db, "--timeout=10"];
        argv.extend(args);
        lab.run(joint.node, &argv)
    };
    vsctl(&["--no-wait", "init"])?;
    let daemon = spawn(
        "lib/openvswitch-switch/ovs-vswitchd",
        &socket,
        "vswitchd.ctl",
    )?;
    appears(&dir.join("vswitchd.ctl"))?;
    configure(lab, joint, vsctl)?;
    Ok(Switch {
        _daemon: daemon,
        _database: database,
    })
}

/// Two bridges: one that has the underlay's device and the node's address, which is how
/// the switch finds the way for tunnel packets, and one for the pods.
fn configure(
    lab: &Lab,
    joint: Joint,
    vsctl: impl Fn(&[&str]) -> Result<crate::process::Output>,
) -> Result<()> {
    let Joint {
        node,
        local,
        peer,
        vni,
        pod,
        address,
    } = joint;
    let hwaddr = format!("other-config:hwaddr={}", lab.underlay_mac(node)?);
    let netdev = "datapath_type=netdev";
    vsctl(&[
        "add-br", "wire", "--", "set", "bridge", "wire", netdev, &hwaddr, "--", "add-port", "wire",
        "eth0",
    ])?;
    let node_place = lab.namespace(node);
    let lines = format!(
        "addr flush dev eth0\nlink set eth0 up\naddr add {local}/24 dev wire\nlink set wire up\n"
    );
    run(&["ip", "-n", &node_place, "-batch", "-"], &lines)?;
    let (remote, key) = (
        format!("options:remote_ip={peer}"),
        format!("options:key={vni}"),
    );
    vsctl(&[
        "add-br",
        "pods",
        "--",
        "set",
        "bridge",
        "pods",
        netdev,
        "--",
        "add-port",
        "pods",
        "tunnel",
        "--",
        "set",
        "interface",
        "tunnel",
        "type=vxlan",
        &remote,
        &key,
    ])?;
    let (mtu, pod_place) = (lab.plan().pod_mtu(), lab.namespace(pod));
    let lines = format!(
        "link add {pod} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod_place}\n\
         link set {pod} up\n"
    );
    run(&["ip", "-n", &node_place, "-batch", "-"], &lines)?;
    let lines = format!("addr add {address}/16 dev eth0\nlink set eth0 up\n");
    run(&["ip", "-n", &pod_place, "-batch", "-"], &lines)?;
    // The switch neither finishes checksums nor cuts super-frames of a veth.
    lab.offloads(pod, "eth0", false)?;
    vsctl(&["add-port", "pods", pod]).context("the pod's port")?;
    Ok(())
}

fn appears(path: &Path) -> Result<()> {
    wait_for(&path.display().to_string(), PATIENCE, || {
        Ok(path.exists().then_some(()))
    })
}
