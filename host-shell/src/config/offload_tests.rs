//! Tests of `[offload]`.

use std::os::unix::fs::PermissionsExt;

use super::tests::{OWN, good, load};
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
        "{OWN}mode = \"offload\"\n[host]\n[offload]\nchannel = \"udp://10.0.0.1:7\"\n\
         devices = [{{ name = \"a/b\", port = 0 }}, {{ name = \"v\", port = 2 }}, {{ name = \"v\", port = 2 }}]\n\
         first_port = 4\nnics = [{{ mac = \"52:54:00:00:00:01\", role = \"cook\" }}]\n\
         [offload.uplink]\nmac = \"ff:ff:ff:ff:ff:ff\"\naddress = \"192.168.77.1/24\"\n\
         gateways = [\"10.0.0.1\", \"192.168.77.7\"]\nmtu = 70000\n"
    ));
    for said in [
        "[host] is for mode = \"host\"",
        "channel \"udp://10.0.0.1:7\" is none",
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
        (
            "devices",
            "first_port = 4094\ndevices",
            "devices: cvlp3: port 4096 is too high; an appliance has the ports 0 to 4095",
        ),
        ("{ address", "{ port = 4096, address", "uplink: port 4096"),
        (
            "devices",
            "host = { device = \"node0\", port = 5000 }\ndevices",
            "host: node0: port 5000",
        ),
    ] {
        let said_now = wrong(format!("{OWN}{}", OFFLOAD.replacen(from, to, 1)));
        assert!(said_now.contains(said), "no `{said}` in {said_now}");
    }
    let none = wrong(format!("{OWN}mode = \"offload\"\n"));
    assert!(none.contains("needs a section [offload]"), "{none}");
}

const TCP: &str = "mode = \"offload\"\n[offload]\nchannel = \"tcp://192.0.2.9:7373\"\n\
     key_file = \"appliance.key\"\n\
     devices = \"cvlp{1..3}\"\nuplink = { address = \"192.168.77.1/24\" }\n";

/// Loads `own` from a directory with a key of this content and these permissions.
fn load_with_key(own: &str, (content, mode): (&str, u32)) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("culvert.toml"), own).unwrap();
    fs::write(dir.path().join("cluster.toml"), good()).unwrap();
    let key = dir.path().join("appliance.key");
    fs::write(&key, content).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    Config::load(&dir.path().join("culvert.toml"))
}

#[test]
fn a_channel_by_tcp_has_a_key_that_can_be_used() {
    let digits = "5a".repeat(32);
    let good = (digits.as_str(), 0o600);
    let own = format!("{OWN}{TCP}");
    let config = load_with_key(&own, good).unwrap();
    let directory = config.path.parent().unwrap();
    let channel = config.offload.unwrap().channel;
    assert_eq!(channel.to_string(), "tcp://192.0.2.9:7373");
    let tcp = ChannelAddress::Tcp {
        address: "192.0.2.9:7373".to_owned(),
        key_file: directory.join("appliance.key"),
    };
    assert_eq!(channel, tcp);
    for address in ["[2001:db8::9]:7373", "dpu-1.rack-7.example:1"] {
        let own = own.replace("192.0.2.9:7373", address);
        assert!(load_with_key(&own, good).is_ok(), "{address}");
    }
    let bad: [(&str, &str, (&str, u32), &str); 9] = [
        (
            "appliance.key",
            "other.key",
            good,
            "other.key cannot be read",
        ),
        ("", "", (&digits, 0o640), "chmod 600"),
        ("", "", ("5a", 0o600), "holds no key"),
        ("key_file = \"appliance.key\"\n", "", good, "needs key_file"),
        ("tcp://192.0.2.9:7373", "unix:sock", good, "key_file is for"),
        ("9:7373", "9", good, "tcp://192.0.2.9:7373"),
        ("9:7373", "9:0", good, "tcp://192.0.2.9:7373"),
        ("192.0.2.9:7373", "2001:db8::9:7373", good, "brackets"),
        ("192.0.2.9:7373", ":7373", good, "tcp://192.0.2.9:7373"),
    ];
    for (from, to, key, said) in bad {
        let error = load_with_key(&own.replacen(from, to, 1), key).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(said),
            "{from} as {to}: no `{said}` in {error}"
        );
    }
}

#[test]
fn a_management_port_is_told_by_a_console() {
    let good_key = ("5a".repeat(32), 0o600);
    let key = (good_key.0.as_str(), good_key.1);
    let section = "[offload.management]\naddresses = [\"192.0.2.9/24\", \"2001:db8::9/64\"]\n\
         gateways = [\"192.0.2.1\", \"fe80::1\"]\nkey_file = \"appliance.key\"\n";
    let own = format!("{OWN}{OFFLOAD}{section}");
    let config = load_with_key(&own, key).unwrap();
    let directory = config.path.parent().unwrap().to_owned();
    let management = config.offload.unwrap().management.unwrap();
    assert_eq!(management.port.tcp_port, 7373);
    assert_eq!(management.port.addresses[1].prefix_length, 64);
    assert_eq!(management.port.gateways.len(), 2);
    assert_eq!(management.key_file, Some(directory.join("appliance.key")));
    let without = own.replace("key_file = \"appliance.key\"\n", "tcp_port = 7\n");
    let config = load_with_key(&without, key).unwrap();
    let management = config.offload.unwrap().management.unwrap();
    assert_eq!((management.port.tcp_port, management.key_file), (7, None));
    let mut bad = vec![
        (own.replace("192.0.2.9/24", "192.0.2.9"), "192.0.2.9"),
        (
            own.replace("192.0.2.9/24", "224.0.0.9/24"),
            "management.addresses 224.0.0.9",
        ),
        (
            own.replace("192.0.2.1\"", "192.0.3.1\""),
            "192.0.3.1 is not on the link",
        ),
        (
            own.replace("fe80::1", "192.0.2.2"),
            "has 192.0.2.1 and 192.0.2.2",
        ),
        (
            own.replace("2001:db8::9/64", "192.0.2.8/24"),
            "fe80::1 is not on the link",
        ),
        (
            own.replace("appliance.key", "none.key"),
            "none.key cannot be read",
        ),
        (
            own.replace("key_file", "tcp_port = 0\nkey_file"),
            "management.tcp_port is 0",
        ),
        (format!("{OWN}{TCP}{section}"), "culvert appliance manage"),
    ];
    let many: Vec<_> = (1..=9).map(|n| format!("\"192.0.2.{n}/24\"")).collect();
    let nine = own.replace("\"192.0.2.9/24\"", &many.join(", "));
    bad.push((nine, "management.addresses"));
    for (own, said) in bad {
        let error = load_with_key(&own, key).unwrap_err().to_string();
        assert!(error.contains(said), "no `{said}` in {error}");
    }
}

#[test]
fn ports_are_as_many_as_an_appliance_has() {
    let own = format!("{OWN}{OFFLOAD}").replacen("devices", "first_port = 4093\ndevices", 1);
    let offload = load(&own, &good()).unwrap().offload.unwrap();
    assert_eq!(offload.devices.last().map(|device| device.port), Some(4095));
}
