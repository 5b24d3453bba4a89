//! culvert-lab: networks of nodes and pods in namespaces of one machine, for the
//! demo, the tests and the benches. Needs root; leaves nothing behind.

pub mod appliance;
pub mod bench;
pub mod blast;
pub mod capture;
mod cpu;
mod culvert;
pub mod demo;
mod guest;
mod hold;
mod inject;
mod kernel;
mod lab;
pub mod measure;
mod no_panic;
mod offload;
mod plan;
mod process;
mod runtime;
mod search;
mod service;
mod site;
mod sweep;

pub use guest::{Checksums, Encapsulation, Guest};
pub use hold::hold;
pub use inject::inject;
pub use lab::{Lab, Pod, UNDERLAY};
pub use no_panic::no_panic;
pub use plan::{NetworkPlan, NodeKind, NodePlan, Plan, check_name};
pub use process::{Output, ProcessId, run, wait_for};
pub use runtime::{Answer, Call};
pub use service::Service;
pub use site::tear_down_on_panic;
pub use sweep::{Kept, Swept, namespaces_of, sweep};
