//! The host's system interfaces against the real kernel, in network namespaces
//! that each test makes for itself. Needs root.

mod drivers;
mod ipv6;
mod joint;
mod lab;
mod netlink;
mod netns;
mod offload;
mod packets;
mod raw;
mod socket;
mod tap;
mod whois;
mod workers;
