//! `[offload]`: what it defaults to, and what each mistake is told.

use super::*;

const OFFLOAD: &str = "mode = \"offload\"\n[offload]\nchannel = \"unix:console.sock\"\n\
     devices = \"cvlp{1..3}\"\nuplink = { address = \"192.168.77.1/24\" }\n";

#[test]
fn offload_mode_has_its_defaults() {
    let config = load(&format!("{OWN}{OFFLOAD}"), &good()).unwrap();
    assert_eq!(config.device, None);
    let offload = config.offload.unwrap();
    let directory = config.path.parent().unwrap();
    let socket = ChannelAddress::Unix(directory.join("console.sock"));
    assert_eq!(offload.channel, socket);
    let uplink = &offload.uplink;
    assert_eq!((uplink.port, uplink.mtu), (0, 1500));
    // By this address the NIC is told to be port 0.
    assert_eq!(uplink.mac.to_string(), "02:63:76:01:00:00");
    assert_eq!(uplink.prefix_length(config.node.underlay), Some(24));
    let devices = offload.devices.iter().map(|d| (d.name.as_str(), d.port));
    let expected = [("cvlp1", 2), ("cvlp2", 3), ("cvlp3", 4)];
    assert_eq!(devices.collect::<Vec<_>>(), expected);
    assert!(offload.nics.is_empty());
}

#[test]
fn offload_mode_in_full() {
    let own = format!(
        "{OWN}mode = \"offload\"\n[offload]\nchannel = \"/dev/ttyS1\"\n\
         devices = [{{ name = \"vf9\", port = 300 }}, {{ name = \"vf8\", port = 7 }}]\n\
         host = {{ device = \"node0\", port = 9 }}\n\
         nics = [{{ mac = \"52:54:00:00:00:01\", role = \"trunk 100\" }}]\n\
         [offload.uplink]\nport = 5\nmac = \"52:54:00:00:00:02\"\nmtu = 9000\n\
         address = [\"192.168.77.1/24\", \"fd77::1/64\"]\n\
         gateways = [\"192.168.77.254\", \"fd77::ff\"]\n"
    );
    let config = load(&own, &good()).unwrap();
    assert_eq!(config.device.as_deref(), Some("node0"));
    let offload = config.offload.unwrap();
    let serial = ChannelAddress::Serial("/dev/ttyS1".into());
    assert_eq!(offload.channel, serial);
    assert_eq!(offload.devices[0].port, 300);
    assert_eq!(offload.uplink.addresses.len(), 2);
    assert_eq!(offload.uplink.gateways.len(), 2);
    assert_eq!(offload.nics[0].1.to_string(), "trunk, ports from 100 on");
}

#[test]
fn what_is_wrong_with_an_appliance_is_told_together() {
    let wrong = |own: String| load(&own, &good()).unwrap_err().to_string();
    let all = wrong(format!(
        "{OWN}mode = \"offload\"\n[host]\n[offload]\nchannel = \"tcp://10.0.0.1:7\"\n\
         devices = [{{ name = \"a/b\", port = 0 }}, {{ name = \"v\", port = 2 }}, {{ name = \"v\", port = 2 }}]\n\
         first_port = 4\nnics = [{{ mac = \"52:54:00:00:00:01\", role = \"cook\" }}]\n\
         [offload.uplink]\nmac = \"ff:ff:ff:ff:ff:ff\"\naddress = \"192.168.77.1/24\"\n\
         gateways = [\"10.0.0.1\", \"192.168.77.7\"]\nmtu = 70000\n"
    ));
    for said in [
        "[host] is for mode = \"host\"",
        "channel \"tcp://10.0.0.1:7\" is none",
        "\"a/b\"",
        "a/b has port 0, which another device or the uplink has",
        "the device v is there twice",
        "v has port 2",
        "first_port is for devices that are given by a pattern",
        "\"cook\"",
        "uplink.mac ff:ff:ff:ff:ff:ff is a multicast address",
        "10.0.0.1 is not on the link of 192.168.77.1/24",
        "has 10.0.0.1 and 192.168.77.7",
        "uplink.mtu 70000",
    ] {
        assert!(all.contains(said), "no `{said}` in {all}");
    }
    for (from, to, said) in [
        ("mode = \"offload\"\n", "", "mode is \"host\"; set mode"),
        ("mode = \"offload\"", "mode = \"both\"", "both"),
        ("channel", "chanel", "chanel"),
        ("192.168.77.1/24", "192.168.77.9/24", "lacks 192.168.77.1"),
        ("{ address", "{ adress = 1, address", "adress"),
        ("cvlp{1..3}", "cvlp{3..1}", "upwards"),
        ("cvlp{1..3}", "cvlp{1..3", "no range"),
        ("devices", "first_port = 65534\ndevices", "no port numbers"),
        ("unix:console.sock", "console.sock", "unix:/path"),
    ] {
        let said_now = wrong(format!("{OWN}{}", OFFLOAD.replacen(from, to, 1)));
        assert!(said_now.contains(said), "no `{said}` in {said_now}");
    }
    let none = wrong(format!("{OWN}mode = \"offload\"\n"));
    assert!(none.contains("needs a section [offload]"), "{none}");
}
