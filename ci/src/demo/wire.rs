//! What n1 sends to n3, as tshark decodes it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::PORT;
use crate::capture::{self, Checked};
use crate::lab::{Lab, UNDERLAY};
use crate::measure::Load;

/// Sends echo requests, TCP and UDP both ways between a pod of n1 and one of n3
/// and checks each packet that n1 sends.
fn check_traffic(lab: &Lab) -> Result<Checked> {
    let (from, to) = (lab.node("n1")?.1.underlay(), lab.node("n3")?.1.underlay());
    let filter = format!("udp port {PORT} and src host {from} and dst host {to}");
    let capture = lab.capture((UNDERLAY, "to-n1"), &filter)?;
    let (here, there) = (lab.pod("p1a")?, lab.pod("p3a")?);
    lab.ping(&here.name, there.address, 10)?;
    lab.ping(&there.name, here.address, 10)?;
    for load in [Load::TcpAt(10), Load::Udp(5)] {
        for (one, other) in [(here, there), (there, here)] {
            lab.iperf(
                &one.name,
                (&other.name, other.address),
                load,
                Duration::from_secs(1),
            )?;
        }
    }
    capture::check(&capture.finish()?, PORT)
}

/// As [`check_traffic`], with n1's transmit offloads off, so that every checksum
/// in the capture is final.
pub(crate) fn check(lab: &Lab) -> Result<Checked> {
    lab.offloads("n1", "eth0", false)?;
    let checked = check_traffic(lab);
    lab.offloads("n1", "eth0", true)?;
    let checked = checked?;
    ensure!(
        checked.tcp > 100 && checked.udp > 100 && checked.icmp >= 20,
        "expected TCP, UDP and ICMP in the capture, saw {checked:?}"
    );
    Ok(checked)
}

/// The result in words.
pub(crate) fn sentence(checked: &Checked) -> String {
    format!(
        "tshark on n1 to n3: {} packets ({} TCP, {} UDP, {} ICMP inside), none malformed, \
         {} checksums right, none wrong, {} outer UDP checksums 0",
        checked.packets, checked.tcp, checked.udp, checked.icmp, checked.good, checked.absent
    )
}
