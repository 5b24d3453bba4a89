//! Who has a port or an address.

use std::net::SocketAddr;

use culvert_host::sys::socket::{Socket, SocketError, SocketOptions};
use culvert_host::whois::{PortUser, explain_bind_error, port_users};

use crate::lab::{Namespace, pair};

/// Binds in `namespace`, which must fail, and gives the explanation.
async fn explain(namespace: &Namespace, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let result = namespace.run(|| Socket::udp(address, SocketOptions::default()));
    match result {
        Err(SocketError::Bind { source, .. }) => {
            explain_bind_error(Some(namespace.ns()), address, &source).await
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_process_is_named_with_its_pid() {
    let (a, _b) = pair();
    let pid = std::process::id();
    let _first = a
        .run(|| std::net::UdpSocket::bind("10.77.0.1:8472"))
        .unwrap();
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let expected = format!(
        "UDP port 8472 is used by process {:?} (pid {pid})",
        comm.trim_end()
    );
    // A program that another test starts has the socket, too, until it is another program.
    for _ in 0..100 {
        if explain(&a, "10.77.0.1:8472").await == expected {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(explain(&a, "10.77.0.1:8472").await, expected);
    assert_eq!(explain(&a, "0.0.0.0:8472").await, expected);
    let _v6 = a.run(|| std::net::UdpSocket::bind("[::]:4789")).unwrap();
    let expected = expected.replace("8472", "4789");
    assert_eq!(explain(&a, "[fd77::1]:4789").await, expected);
    assert_eq!(explain(&a, "10.77.0.1:4789").await, expected);
}

#[tokio::test]
async fn a_vxlan_device_is_named_with_its_vni() {
    let (a, _b) = pair();
    a.ip(&[
        "link",
        "add",
        "flannel.1",
        "type",
        "vxlan",
        "id",
        "1",
        "dev",
        "u0",
        "dstport",
        "8472",
    ]);
    a.ip(&[
        "link", "add", "other", "type", "vxlan", "id", "2", "dev", "u0", "dstport", "4789",
    ]);
    a.ip(&["link", "set", "flannel.1", "up"]);
    a.ip(&["link", "set", "other", "up"]);
    assert_eq!(
        explain(&a, "10.77.0.1:8472").await,
        "UDP port 8472 is used by the kernel's vxlan device \"flannel.1\" (VNI 1)"
    );
    a.ip(&["link", "set", "flannel.1", "down"]);
    let address = "10.77.0.1:8472".parse().unwrap();
    assert_eq!(port_users(Some(a.ns()), address).await, []);
    a.run(|| Socket::udp(address, SocketOptions::default()))
        .unwrap();
}

#[tokio::test]
async fn a_vxlan_device_that_was_moved_away_is_not_named_but_guessed() {
    let (a, b) = pair();
    a.ip(&[
        "link",
        "add",
        "vx",
        "type",
        "vxlan",
        "id",
        "1",
        "dstport",
        "8472",
        "remote",
        "10.77.0.2",
    ]);
    a.ip(&["link", "set", "vx", "netns", &b.name]);
    b.ip(&["link", "set", "vx", "up"]);
    let address = "10.77.0.1:8472".parse().unwrap();
    assert_eq!(
        port_users(Some(a.ns()), address).await,
        [PortUser::Unseen { uid: 0 }]
    );
    let sentence = explain(&a, "10.77.0.1:8472").await;
    assert!(
        sentence.starts_with("UDP port 8472 is used by the kernel ("),
        "{sentence}"
    );
}

#[tokio::test]
async fn an_address_of_nobody_lists_those_there_are() {
    let (a, _b) = pair();
    assert_eq!(
        explain(&a, "192.0.2.9:8472").await,
        "no interface of this node has the address 192.0.2.9; \
         the IPv4 addresses are 127.0.0.1 (lo), 10.77.0.1 (u0)"
    );
    let sentence = explain(&a, "[2001:db8::1]:8472").await;
    assert!(
        sentence.contains("fd77::1 (u0)") && !sentence.contains("10.77"),
        "{sentence}"
    );
}

#[tokio::test]
async fn another_error_stays_what_it_is() {
    let error = std::io::Error::from_raw_os_error(libc::EACCES);
    let sentence = explain_bind_error(None, "127.0.0.1:1".parse().unwrap(), &error).await;
    assert_eq!(
        sentence,
        "cannot bind UDP 127.0.0.1:1: Permission denied (os error 13)"
    );
}

#[tokio::test]
async fn an_error_that_is_over_keeps_its_own_text() {
    let namespace = Namespace::new();
    let error = std::io::Error::from_raw_os_error(libc::EADDRINUSE);
    let address = "127.0.0.1:8472".parse().unwrap();
    let sentence = explain_bind_error(Some(namespace.ns()), address, &error).await;
    assert!(
        sentence.starts_with("cannot bind UDP 127.0.0.1:8472: Address already in use"),
        "{sentence}"
    );
}
