//! `[offload.management]`: the appliance's management port, as it is told over its console.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_core::channel::{MAX_ADDRESSES, Management};
use ipnet::IpNet;
use serde::Deserialize;

use super::address::address;
use super::offload::{check_gateways, check_key};
use crate::appliance::manage::{TCP_PORT, management};

/// What an appliance's management port is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementPort {
    /// Its place in the network.
    pub port: Management,
    /// Where the key is that opens its TCP port; without one that stays closed. It is
    /// read each time when the appliance is told.
    pub key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManagement {
    addresses: Vec<IpNet>,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default = "default_tcp_port")]
    tcp_port: u16,
    key_file: Option<PathBuf>,
}

fn default_tcp_port() -> u16 {
    TCP_PORT
}

impl RawManagement {
    /// The section with what is wrong with it added to `found`; a relative path is
    /// relative to `directory`.
    pub(super) fn check(self, directory: &Path, found: &mut Vec<String>) -> ManagementPort {
        let RawManagement {
            addresses,
            gateways,
            tcp_port,
            ..
        } = self;
        if addresses.is_empty() {
            found.push(format!(
                "management.addresses is empty; give 1 to {MAX_ADDRESSES}"
            ));
        }
        for own in &addresses {
            address("management.addresses", own.addr(), found);
        }
        // Its own link-local address comes by itself where it has an IPv6 address.
        let has_ipv6 = addresses.iter().any(|own| own.addr().is_ipv6());
        let link_local = "fe80::/64".parse().ok().filter(|_| has_ipv6);
        let links: Vec<IpNet> = addresses.iter().copied().chain(link_local).collect();
        check_gateways("management.gateways", &gateways, &links, found);
        let key_file = self.key_file.map(|path| directory.join(path));
        if let Some(path) = &key_file {
            check_key(path, "management.key_file", found);
            if tcp_port == 0 {
                found.push("management.tcp_port is 0, and key_file is for a port".to_owned());
            }
        }
        let port = management(&addresses, &gateways, tcp_port).unwrap_or_else(|problem| {
            found.push(format!("management.{problem}"));
            Management::default()
        });
        ManagementPort { port, key_file }
    }
}
