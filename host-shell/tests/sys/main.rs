//! The host's system interfaces against the real kernel, in network namespaces
//! that each test makes for itself. Needs root.

mod ipv6;
mod lab;
mod netlink;
mod netns;
mod offload;
mod packets;
mod tap;
mod udp;
mod whois;
