//! Tests of the configuration's parser.

use std::ffi::OsString;
use std::net::Ipv4Addr;

use serde_json::json;

use super::*;

fn conf(extra: Value) -> Result<NetConf, CniError> {
    let mut object = json!({"cniVersion": "1.0.0", "name": "pods", "type": "culvert-cni"});
    for (key, value) in extra.as_object().unwrap() {
        object[key] = value.clone();
    }
    NetConf::parse(object.to_string().as_bytes())
}

fn env(args: &str) -> Environment {
    Environment::from_vars(|name| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c",
            "CNI_IFNAME" => "eth0",
            "CNI_NETNS" => "/n",
            _ => args,
        };
        Some(OsString::from(value))
    })
    .unwrap()
}

#[test]
fn keys_of_others_are_tolerated() {
    let conf = conf(json!({
        "runtimeConfig": {"portMappings": [{"HostPort": 1}]}, "ipMasq": "what", "capabilities": 3,
        "args": {"labels": []}, "prevResult": 7, "dns": null
    }))
    .unwrap();
    assert_eq!(
        (conf.version, conf.name.as_str()),
        (Version::V1_0_0, "pods")
    );
    assert_eq!(conf.socket(), PathBuf::from("/run/culvert/culvertd.sock"));
    assert_eq!(conf.spool_dir(), PathBuf::from("/var/lib/culvert/spool"));
    assert_eq!(conf.wanted(&env("")).unwrap(), Wanted::default());
}

#[test]
fn what_is_no_configuration_is_named() {
    for (text, code, part) in [
        ("", 6, "empty"),
        (" \n", 6, "empty"),
        ("{", 6, "not JSON"),
        ("[1]", 6, "a list"),
        ("{}", 1, "cniVersion is missing"),
        (
            r#"{"cniVersion": 1}"#,
            7,
            "\"cniVersion\": 1 is not a string",
        ),
        (r#"{"cniVersion": "0.9.0", "name": "n"}"#, 1, "\"0.9.0\""),
        (r#"{"cniVersion": "1.0.0"}"#, 7, "\"name\" is missing"),
        (
            r#"{"cniVersion": "1.0.0", "name": "a/b"}"#,
            7,
            "\"name\": \"a/b\"",
        ),
        ("\u{feff}{}", 6, "not JSON"),
    ] {
        let error = NetConf::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.code, code, "{text}: {error}");
        assert!(error.msg.contains(part), "{text}: {error}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_crash() {
    assert_eq!(
        NetConf::parse("[".repeat(1_000_000).as_bytes())
            .unwrap_err()
            .code,
        6
    );
}

#[test]
fn own_keys_with_wrong_values_are_named() {
    for (extra, part) in [
        (json!({"runDir": 3, "stateDir": "/a"}), "\"runDir\": 3"),
        (
            json!({"runDir": "a", "stateDir": "/a"}),
            "\"runDir\": \"a\" is not an absolute path",
        ),
        (json!({"runDir": "/a"}), "\"stateDir\""),
        (json!({"stateDir": "/a"}), "\"runDir\""),
        (json!({"timeoutSeconds": "5"}), "\"timeoutSeconds\": \"5\""),
        (json!({"timeoutSeconds": 0}), "from 1 to 300"),
        (json!({"timeoutSeconds": 1.5}), "1.5"),
        (json!({"timeoutSeconds": -1}), "-1"),
    ] {
        let error = conf(extra).unwrap_err();
        assert_eq!(error.code, 7);
        assert!(error.msg.contains(part), "{error}");
    }
}

#[test]
fn keys_are_read_without_regard_to_case() {
    let conf = conf(json!({
        "RunDir": "/r", "StateDir": "/s", "RuntimeConfig": {"IPs": ["10.0.0.5/24"], "Mac": "0a:00:00:00:00:01"}
    }))
    .unwrap();
    assert_eq!(
        (conf.run_dir.as_path(), conf.state_dir.as_path()),
        ("/r".as_ref(), "/s".as_ref())
    );
    let wanted = conf.wanted(&env("")).unwrap();
    assert_eq!(wanted.addresses, [Ipv4Addr::new(10, 0, 0, 5)]);
    assert_eq!(wanted.mac, Some(Mac([10, 0, 0, 0, 0, 1])));
}

#[test]
fn the_nearest_request_wins() {
    let addresses = |extra, args| conf(extra).unwrap().wanted(&env(args)).unwrap().addresses;
    let args = json!({"cni": {"ips": ["10.0.0.2"]}});
    assert_eq!(
        addresses(
            json!({"runtimeConfig": {"ips": ["10.0.0.1"]}, "args": args}),
            "IP=10.0.0.3"
        ),
        [Ipv4Addr::new(10, 0, 0, 1)]
    );
    assert_eq!(
        addresses(json!({"args": args}), "IP=10.0.0.3"),
        [Ipv4Addr::new(10, 0, 0, 2)]
    );
    assert_eq!(
        addresses(json!({"runtimeConfig": {"ips": []}}), "IP=10.0.0.3"),
        [Ipv4Addr::new(10, 0, 0, 3)]
    );
    assert_eq!(addresses(json!({}), "IP="), [] as [IpAddr; 0]);
    let both = json!({"runtimeConfig": {"ips": ["fd00::5/64", "10.0.0.5"]}});
    let both = addresses(both, "")
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert_eq!(both, ["fd00::5", "10.0.0.5"]);
    assert_eq!(addresses(json!({}), "IP=fd00::3")[0].to_string(), "fd00::3");
}

#[test]
fn impossible_requests_are_refused() {
    let error = |extra, args| conf(extra).unwrap().wanted(&env(args)).unwrap_err();
    assert_eq!(
        error(
            json!({"runtimeConfig": {"ips": ["fd00::1", "10.0.0.1", "fd00::2"]}}),
            ""
        )
        .code,
        2
    );
    assert_eq!(
        error(
            json!({"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}),
            ""
        )
        .code,
        2
    );
    assert_eq!(error(json!({"runtimeConfig": {"ips": [7]}}), "").code, 7);
    assert_eq!(
        error(json!({"runtimeConfig": {"ips": "10.0.0.1"}}), "").code,
        7
    );
    assert_eq!(error(json!({"runtimeConfig": []}), "").code, 7);
    assert_eq!(
        error(json!({"runtimeConfig": {"mac": "01:00:00:00:00:00"}}), "").code,
        7
    );
    assert_eq!(error(json!({}), "IP=10.0.0").code, 4);
    assert_eq!(error(json!({}), "MAC=zz").code, 4);
}

#[test]
fn garbage_as_previous_result_is_found_when_it_is_asked_for() {
    for garbage in [
        json!(7),
        json!("x"),
        json!({"ips": 3}),
        json!({"ips": [{"address": "nonsense"}]}),
    ] {
        let error = conf(json!({"prevResult": garbage}))
            .unwrap()
            .prev_result()
            .unwrap_err();
        assert_eq!(error.code, 7);
        assert!(error.msg.contains("prevResult"), "{error}");
    }
    assert_eq!(conf(json!({})).unwrap().prev_result().unwrap(), None);
    assert_eq!(
        conf(json!({"prevResult": null}))
            .unwrap()
            .prev_result()
            .unwrap(),
        None
    );
}

#[test]
fn gc_without_a_list_never_means_delete_all() {
    assert_eq!(
        conf(json!({}))
            .unwrap()
            .valid_attachments()
            .unwrap_err()
            .code,
        7
    );
    for bad in [
        json!(null),
        json!({}),
        json!([{"containerID": "a"}]),
        json!([3]),
    ] {
        let conf = conf(json!({"cni.dev/valid-attachments": bad})).unwrap();
        assert_eq!(conf.valid_attachments().unwrap_err().code, 7);
    }
    let list = json!([{"containerID": "a", "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let conf = conf(json!({key: list})).unwrap();
        assert_eq!(
            conf.valid_attachments().unwrap(),
            [("a".to_owned(), "eth0".to_owned())]
        );
    }
}

#[test]
fn long_values_are_shortened_in_messages() {
    let error = conf(json!({"timeoutSeconds": "ü".repeat(100_000)})).unwrap_err();
    assert!(error.msg.len() < 400);
}
