//! Captures in a lab and what tshark makes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::process::{Output, run, wait_for};
use crate::service::Service;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    service: Service,
    file: PathBuf,
}

impl Lab {
    /// Starts to capture what matches the filter `wanted` (as in pcap-filter(7))
    /// on a device of a place, and returns once it does.
    ///
    /// # Errors
    /// When dumpcap, which is tshark's own capture program, does not start.
    pub fn capture(&self, (place, device): (&str, &str), wanted: &str) -> Result<Capture> {
        let file = self.dir().join(format!("{place}-{device}.pcapng"));
        let _ = std::fs::remove_file(&file);
        let path = file.display().to_string();
        let argv = [
            "dumpcap", "-q", "-i", device, "-f", wanted, "-B", "64", "-w", &path,
        ];
        // It makes the file after the filter is in place.
        let ready = |_: &str| std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
        let service = self.spawn(place, &argv, ready)?;
        Ok(Capture { service, file })
    }
}

impl Capture {
    /// Ends the capture and returns its file.
    ///
    /// # Errors
    /// When dumpcap did not end by itself or lost packets.
    pub fn finish(self) -> Result<PathBuf> {
        // What was sent last may still be in the kernel's ring; dumpcap reads it
        // every 250 ms at most.
        std::thread::sleep(Duration::from_millis(300));
        let printed = self.service.stop(Signal::SIGINT)?;
        let line = printed
            .lines()
            .find(|line| line.contains("received/dropped on interface"));
        let line = line.with_context(|| format!("dumpcap printed no counts: {printed}"))?;
        ensure!(none_dropped(line), "the capture is not complete: {line}");
        wait_for("capture file", Duration::from_secs(2), || {
            Ok(self.file.exists().then_some(()))
        })?;
        Ok(self.file)
    }
}

/// Whether `Packets received/dropped on interface 'x': 10/0 (…)` says 0 dropped.
fn none_dropped(line: &str) -> bool {
    let counts = line.rsplit_once("': ").map_or("", |(_, counts)| counts);
    let dropped = counts
        .split_whitespace()
        .next()
        .and_then(|counts| counts.split_once('/'));
    dropped.is_some_and(|(_, dropped)| dropped == "0")
}

/// What tshark says about one packet. A field that occurs in the outer and in
/// the inner headers has a value for each, from the outside in.
pub type Fields = Vec<Vec<String>>;

/// Decodes a capture, with all checksums checked and `vxlan_port` as VXLAN;
/// returns the named fields of each packet.
///
/// # Errors
/// When tshark fails, for example on an unknown field.
pub fn decode(file: &Path, vxlan_port: u16, fields: &[&str]) -> Result<Vec<Fields>> {
    let (path, port) = (
        file.display().to_string(),
        format!("udp.port=={vxlan_port},vxlan"),
    );
    let mut argv = vec!["tshark", "-n", "-r", &path, "-d", &port, "-T", "fields"];
    for preference in CHECKS {
        argv.extend(["-o", preference]);
    }
    argv.extend([
        "-E",
        "separator=/t",
        "-E",
        "occurrence=a",
        "-E",
        "aggregator=,",
    ]);
    for field in fields {
        argv.extend(["-e", field]);
    }
    let Output { stdout, .. } = run(&argv, "").context("decoding a capture")?;
    let values = |text: &str| -> Vec<String> {
        text.split(',')
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Ok(stdout
        .lines()
        .map(|line| line.split('\t').map(values).collect())
        .collect())
}

const CHECKS: [&str; 3] = [
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
];

/// What a check of a capture counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Packets looked at.
    pub packets: usize,
    /// Checksums that are right: of IPv4, UDP, TCP and ICMP, outer and inner.
    pub good: usize,
    /// UDP checksums that are 0, which over IPv4 means none.
    pub absent: usize,
    /// Packets with TCP inside.
    pub tcp: usize,
    /// Packets with UDP inside.
    pub udp: usize,
    /// Packets with ICMP inside.
    pub icmp: usize,
}

/// Checks every packet of a capture of VXLAN over IPv4: nothing malformed, an
/// outer and an inner header, no checksum that is wrong or was not checked.
///
/// # Errors
/// Names the first packet that is not as it should be, and why.
pub fn check(file: &Path, vxlan_port: u16) -> Result<Checked> {
    let names = [
        "frame.number",
        "_ws.malformed",
        "_ws.col.Info",
        "vxlan.vni",
        "ip.checksum.status",
        "udp.checksum.status",
        "tcp.checksum.status",
        "icmp.checksum.status",
        "ip.flags.mf",
        "ip.frag_offset",
    ];
    let mut checked = Checked::default();
    for packet in decode(file, vxlan_port, &names)? {
        check_packet(&packet, &mut checked)
            .with_context(|| format!("packet {} ({})", packet[0].join(""), packet[2].join(",")))?;
    }
    Ok(checked)
}

fn check_packet(packet: &Fields, checked: &mut Checked) -> Result<()> {
    let [_, malformed, _, vni, ip, udp, tcp, icmp, more, offset] = packet.as_slice() else {
        bail!("tshark printed {} fields", packet.len());
    };
    ensure!(malformed.is_empty(), "malformed: {}", malformed.join(", "));
    ensure!(vni.len() == 1, "{} VXLAN headers instead of one", vni.len());
    ensure!(
        ip.len() >= 2,
        "{} IPv4 headers instead of an outer and an inner one",
        ip.len()
    );
    let fragment = more.iter().any(|more| more != "0") || offset.iter().any(|at| at != "0");
    for (name, statuses) in [("IPv4", ip), ("UDP", udp), ("TCP", tcp), ("ICMP", icmp)] {
        for (index, status) in statuses.iter().enumerate() {
            match (name, status.as_str()) {
                (_, "1") => checked.good += 1,
                ("UDP", "3") => checked.absent += 1,
                // A fragment's transport checksum covers what is not in it.
                ("UDP" | "TCP" | "ICMP", "2") if fragment => {}
                (_, status) => bail!("checksum {} of {name}: {}", index + 1, status_name(status)),
            }
        }
    }
    checked.packets += 1;
    checked.udp += usize::from(udp.len() >= 2);
    checked.tcp += usize::from(!tcp.is_empty());
    checked.icmp += usize::from(!icmp.is_empty());
    Ok(())
}

/// tshark's names of its checksum states.
fn status_name(status: &str) -> &str {
    match status {
        "0" => "bad",
        "2" => "not verified",
        "3" => "not there",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::none_dropped;

    #[test]
    fn a_capture_that_lost_packets_is_told_from_one_that_did_not() {
        let line = |counts| format!("Packets received/dropped on interface 'eth0': {counts}");
        assert!(none_dropped(&line(
            "10/0 (pcap:0/dumpcap:0/flushed:0/ps_ifdrop:0) (100.0%)"
        )));
        assert!(!none_dropped(&line(
            "10/2 (pcap:2/dumpcap:0/flushed:0/ps_ifdrop:0) (83.3%)"
        )));
        assert!(!none_dropped("Packets captured: 10"));
    }
}
