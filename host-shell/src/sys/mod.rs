//! What needs the kernel's raw interfaces: namespaces, TAP devices, batched sockets.
//!
//! This is the only place of the host shell with `unsafe`; everything that it
//! exports is safe to call. Waiting for readiness needs nothing of its own:
//! [`nix::sys::epoll::Epoll`] has 64-bit tokens, [`nix::sys::eventfd::EventFd`]
//! wakes a worker, and every device and socket here is [`std::os::fd::AsFd`].

pub mod netns;
pub mod serial;
pub mod socket;
pub mod tap;
pub mod vnet;
pub mod zeroed;
