//! What the checks must see: cases and frames that are broken on purpose.

use std::path::Path;

use culvert_core::PortId;
use culvert_core::channel::Owner;

use crate::replay::*;
use crate::{cases, packets, play_on_the_core, problems, wireshark};

fn case(name: &str) -> &'static Case {
    let mut all = cases().iter();
    all.find(|case| case.name == name).unwrap()
}

/// Reads tables after a change of their text, and returns what is said of them.
fn refusal(from: &str, to: &str) -> String {
    let text = case("vxlan-over-ipv4").tables.text();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    let refused = Tables::parse(&text.replace(from, to));
    refused.expect_err("they are read")
}

#[test]
fn tables_are_read_as_they_are_written() {
    for case in cases() {
        let read = Tables::parse(&case.tables.text()).unwrap();
        assert_eq!(read, case.tables, "{}", case.name);
    }
}

#[test]
fn tables_that_say_too_little_or_nonsense_are_refused() {
    let about = &case("vxlan-over-ipv4").tables.about;
    assert!(refusal(about, "  short  ").contains("`about`"));
    assert!(refusal("pod-a = 2\n", "").contains("port 2 has no name"));
    assert!(refusal("until-ms", "until").contains("until"));
    assert!(refusal("mtu = 1450", "mtu = 70000").contains("70000"));
    let mac = "0a:58:0a:f4:01:02";
    let text = case("vxlan-over-ipv4").tables.text();
    let refused = Tables::parse(&text.replace(mac, "0a:58:0a:f4:01")).unwrap_err();
    assert!(refused.contains("MAC"), "{refused}");
    assert!(refusal("\"10.244.2.0/24\"", "\"10.244.2.1/24\"").contains("bits set"));
    assert!(refusal("\"10.244.2.0/24\"", "\"10.244.2.0\"").contains("address/length"));
    assert!(refusal("options = []", "options = [\"fly\"]").contains("\"fly\" is none of"));
    assert!(refusal("accepts = [\"vxlan\"]", "accepts = [\"gre\"]").contains("\"gre\""));
    assert!(refusal("transit = false", "transit = false, colour = 1").contains("colour"));
    let mut blind = case("vxlan-over-ipv4").tables.clone();
    blind.expect.clear();
    blind.counts.clear();
    assert!(
        Tables::parse(&blind.text())
            .unwrap_err()
            .contains("blessed")
    );
    let mut late = case("vxlan-over-ipv4").tables.clone();
    late.apply[0].at_ms = 1;
    assert!(Tables::parse(&late.text()).unwrap_err().contains("order"));
}

#[test]
fn captures_that_cannot_be_played_are_refused() {
    let case = case("vxlan-over-ipv4");
    let ports = case.tables.ports();
    let read = |capture: &Capture| Capture::parse(&capture.file(Direction::In), &ports);
    assert_eq!(read(&case.input).as_ref(), Ok(&case.input));
    let mut backwards = case.input.clone();
    backwards.frames.reverse();
    assert!(read(&backwards).unwrap_err().contains("frame 2 is earlier"));
    let mut stranger = case.input.clone();
    stranger.ports[0].name = "eth7".into();
    assert!(read(&stranger).unwrap_err().contains("\"eth7\""));
    let file = case.input.file(Direction::In);
    for len in 0..file.len() {
        // A file that ends between two frames is whole.
        if let Ok(part) = Capture::parse(&file[..len], &ports) {
            let (whole, frames) = (&case.input.frames, part.frames.len());
            assert!(frames < whole.len() && part.frames == whole[..frames]);
        }
    }
}

/// As somebody would bring a capture from elsewhere.
#[test]
fn captures_that_wireshark_has_written_are_read() {
    let case = case("flood");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [from, to] = ["by-us.pcapng", "by-wireshark.pcapng"].map(|name| scratch.join(name));
    std::fs::write(&from, case.input.file(Direction::In)).unwrap();
    let mut tshark = std::process::Command::new("tshark");
    tshark
        .arg("-r")
        .arg(&from)
        .args(["-F", "pcapng", "-w"])
        .arg(&to);
    assert!(tshark.output().unwrap().status.success());
    let written = std::fs::read(&to).unwrap();
    assert_ne!(written, std::fs::read(&from).unwrap());
    assert_eq!(
        Capture::parse(&written, &case.tables.ports()).as_ref(),
        Ok(&case.input)
    );
}

#[test]
fn a_refused_transaction_and_one_behind_the_end_are_errors() {
    let mut twice = case("local-pods").clone();
    twice.tables.apply.reverse();
    let refused = play_on_the_core(&twice).unwrap_err();
    assert!(refused.contains("transaction 1: Refused"), "{refused}");
    let mut behind = case("local-pods").clone();
    let late = Transaction::new(behind.tables.until_ms + 1, Owner::Cluster, vec![]);
    behind.tables.apply.push(late);
    assert!(play_on_the_core(&behind).unwrap_err().contains("until-ms"));
}

#[test]
fn a_difference_names_frame_byte_and_field() {
    let case = case("vxlan-over-ipv4");
    let outcome = play_on_the_core(case).unwrap();
    let expected = &outcome.output;
    let said = |actual: &Capture| expected.difference(actual).unwrap().to_string();
    let changed = |edit: fn(&mut Captured)| {
        let mut actual = expected.clone();
        edit(&mut actual.frames[2]);
        actual
    };
    assert_eq!(expected.difference(expected), None);
    let other_ttl = changed(|frame| frame.bytes[22] = 7);
    assert_eq!(said(&other_ttl), "frame 3: byte 22 is 0x07 instead of 0x40");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.pcapng");
    std::fs::write(&scratch, other_ttl.file(Direction::Out)).unwrap();
    let field = wireshark::field(&scratch, &expected.difference(&other_ttl).unwrap());
    assert_eq!(field, "; that is ip.ttl (Time to Live: 7)");
    let len = expected.frames[2].bytes.len();
    let short = changed(|frame| frame.bytes.truncate(frame.bytes.len() - 1));
    let text = format!("frame 3: {} bytes instead of {len}", len - 1);
    assert_eq!(said(&short), text);
    let late = changed(|frame| frame.micros += 1);
    assert_eq!(
        said(&late),
        "frame 3: sent at 1001001 µs instead of 1001000 µs"
    );
    let elsewhere = changed(|frame| frame.port = PortId(2));
    assert_eq!(said(&elsewhere), "frame 3: sent by pod-a instead of wire");
    let mut fewer = expected.clone();
    let count = fewer.frames.len();
    fewer.frames.pop();
    let text = format!("{} frames instead of {count}, ", count - 1);
    assert!(said(&fewer).starts_with(&text));
    let line = line_difference("rx 4\nreply 1\n", "rx 4\n").unwrap();
    assert_eq!(line, "line 2: \"the end\" instead of \"reply 1\"");
    assert_eq!(line_difference("rx 4\n", "rx 4\n"), None);
}

/// Everything behind the Ethernet header of an IPv4 packet with a UDP checksum is
/// summed by something.
#[test]
fn every_wrong_bit_of_a_tunnel_packet_is_seen() {
    let outcome = play_on_the_core(case("vxlan-over-ipv4")).unwrap();
    let frame = outcome.output.frames[2].bytes.clone();
    packets::check(&frame).unwrap();
    for bit in 14 * 8..frame.len() * 8 {
        let mut wrong = frame.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(packets::check(&wrong).is_err(), "bit {bit}");
    }
    for len in 0..frame.len() {
        assert!(packets::check(&frame[..len]).is_err(), "{len} bytes");
    }
    let longer = [&frame[..], &[0]].concat();
    assert!(packets::check(&longer).is_err());
}

#[test]
fn what_is_wrong_is_never_blessed() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("never-blessed");
    let good = case("no-route");
    let outcome = play_on_the_core(good).unwrap();
    let seen = |case: &Case, outcome: &Outcome| {
        let mut all = problems(case, outcome);
        let played = [(case, outcome.clone())];
        let mut seen = wireshark::check(&played, &scratch);
        all.extend(seen.remove(&case.name).unwrap_or_default());
        all
    };
    assert_eq!(seen(good, &outcome), [""; 0]);
    // Wrong checksums: both the packet check and Wireshark see them.
    let error = outcome
        .output
        .frames
        .iter()
        .position(|frame| frame.bytes[23] == 1);
    let mut damaged = outcome.clone();
    damaged.output.frames[error.unwrap()].bytes[36] ^= 1;
    let all = seen(good, &damaged);
    assert!(
        all.iter()
            .any(|text| text.contains("the ICMP checksum is wrong")),
        "{all:?}"
    );
    assert!(
        all.iter().any(|text| text.contains("icmp.checksum.status")),
        "{all:?}"
    );
    // Right frames, but not what was to be shown.
    let mut missing = outcome.clone();
    missing.output.frames.truncate(error.unwrap());
    let all = seen(good, &missing);
    assert!(
        all.iter().any(|text| text.contains("frames match")),
        "{all:?}"
    );
    let counters = outcome
        .counters
        .replace("drop-no-route 4", "drop-no-route 3");
    let miscounted = Outcome {
        counters,
        ..outcome
    };
    let all = seen(good, &miscounted);
    assert_eq!(all, ["counter drop-no-route is 3, the tables say 4"]);
}
