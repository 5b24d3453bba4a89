//! Several sockets with several source ports, so that the underlay's routers and
//! receive queues can spread flows (RFC 7348, section 5).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::{Socket, SocketError, SocketOptions};

/// The ports that RFC 7348 wants tunnels to send from: the dynamic ones.
pub const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;

/// Sockets to send from. They drop whatever is sent to their ports, but give
/// the errors of peers: drain each when it reports `EPOLLERR`.
#[derive(Debug)]
pub struct UdpSourcePool {
    sockets: Vec<Socket>,
}

impl UdpSourcePool {
    /// How many sockets a pool has unless there is a reason for another number.
    pub const DEFAULT_SIZE: usize = 8;

    /// Binds `size` sockets to free ports of [`SOURCE_PORTS`] at `address`, in the
    /// calling thread's network namespace.
    ///
    /// # Errors
    /// [`SocketError::NoFreePort`] when fewer ports are free; see [`SocketError`] for others.
    ///
    /// # Panics
    /// When `size` is 0.
    pub fn bind(address: IpAddr, size: usize, options: SocketOptions) -> Result<Self, SocketError> {
        assert!(size > 0, "a pool has at least one socket");
        Self::bind_some(address, size, options, ports_from_anywhere())
    }

    /// Binds the first `size` of `ports` that are free.
    fn bind_some(
        address: IpAddr,
        size: usize,
        options: SocketOptions,
        ports: impl Iterator<Item = u16>,
    ) -> Result<Self, SocketError> {
        let mut sockets = Vec::with_capacity(size);
        for port in ports {
            match Socket::udp(SocketAddr::new(address, port), options) {
                Ok(socket) => sockets.push(socket),
                Err(SocketError::Bind { source, .. }) if is_taken(&source) => continue,
                Err(error) => return Err(error),
            }
            if sockets.len() == size {
                break;
            }
        }
        if sockets.len() < size {
            return Err(SocketError::NoFreePort {
                address,
                wanted: size,
                found: sockets.len(),
            });
        }
        for socket in &sockets {
            socket
                .refuse_datagrams()
                .map_err(|source| SocketError::Option {
                    kind: socket.kind(),
                    address: socket.local_addr(),
                    option: "SO_ATTACH_FILTER",
                    source,
                })?;
        }
        Ok(Self { sockets })
    }

    /// The socket for datagrams that want the source port `src_port`: always the
    /// same one for the same port, though not one of this port.
    pub fn socket_for(&self, src_port: u16) -> &Socket {
        &self.sockets[self.index_for(src_port)]
    }

    /// The place in [`UdpSourcePool::sockets`] of [`UdpSourcePool::socket_for`],
    /// by which a batch can be sorted.
    pub fn index_for(&self, src_port: u16) -> usize {
        usize::from(src_port) % self.sockets.len()
    }

    /// All sockets; their number and order never change.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// All of [`SOURCE_PORTS`] once, from a random one on, so that two nodes or two
/// runs do not use the same few.
fn ports_from_anywhere() -> impl Iterator<Item = u16> {
    let count = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
    let start = RandomState::new().build_hasher().finish() % count;
    (0..count)
        .filter_map(move |step| u16::try_from((start + step) % count).ok())
        .map(|offset| SOURCE_PORTS.start() + offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn every_port_is_tried_once() {
        let mut ports: Vec<u16> = ports_from_anywhere().collect();
        ports.sort_unstable();
        assert_eq!(ports, SOURCE_PORTS.collect::<Vec<_>>());
    }

    #[test]
    fn sockets_have_different_dynamic_ports() {
        let pool =
            UdpSourcePool::bind(Ipv4Addr::LOCALHOST.into(), 8, SocketOptions::default()).unwrap();
        let mut ports: Vec<u16> = pool
            .sockets()
            .iter()
            .map(|s| s.local_addr().port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert!(ports.iter().all(|port| SOURCE_PORTS.contains(port)));
        let used: std::collections::HashSet<usize> =
            SOURCE_PORTS.map(|port| pool.index_for(port)).collect();
        assert_eq!(used.len(), 8);
    }

    #[test]
    fn taken_ports_are_passed_over_and_too_few_free_ones_are_an_error() {
        let address = Ipv4Addr::LOCALHOST.into();
        let options = SocketOptions::default();
        let held = UdpSourcePool::bind(address, 3, options).unwrap();
        let free = UdpSourcePool::bind(address, 2, options).unwrap();
        let ports = |pool: &UdpSourcePool| -> Vec<u16> {
            pool.sockets()
                .iter()
                .map(|socket| socket.local_addr().port())
                .collect()
        };
        let (taken, left) = (ports(&held), ports(&free));
        drop(free);
        let tried = || taken.iter().chain(&left).copied();
        let pool = UdpSourcePool::bind_some(address, 2, options, tried()).unwrap();
        assert_eq!(ports(&pool), left);
        drop(pool);
        let error = UdpSourcePool::bind_some(address, 3, options, tried()).unwrap_err();
        assert!(
            matches!(
                error,
                SocketError::NoFreePort {
                    wanted: 3,
                    found: 2,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn an_address_of_nobody_is_an_error() {
        let error = UdpSourcePool::bind(
            Ipv4Addr::new(203, 0, 113, 1).into(),
            2,
            SocketOptions::default(),
        );
        assert!(matches!(error, Err(SocketError::Bind { .. })), "{error:?}");
    }
}
