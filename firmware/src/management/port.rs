//! The port: smoltcp over the management NIC's frames.

use core::net::IpAddr;
use core::time::Duration;

use culvert_core::channel::{
    BoardRefusal, FrameEvent, KEY_LEN, MAX_ADDRESSES, Management as Config, Role,
};
use culvert_core::{Frame, Instant, MacAddr};
use smoltcp::iface::{Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv6Address, Ipv6Cidr};

use super::Powers;
use super::address;
#[cfg(feature = "management-auth")]
use super::auth::{Auth, Room};
use super::device::{Device, Scratch, Waiting};
use crate::log::{display, log};
use crate::plane::Exit;
use crate::{Board, Pool};

/// Frames that the stack takes in in a turn.
const BUDGET: usize = 8;
/// When the stack is asked again that had no buffer to make a frame in.
const WITHOUT_BUFFERS: Duration = Duration::from_millis(10);
/// How often the sockets are asked in a turn for a frame each.
const ROUNDS: usize = 2;

// The link-local address comes on top.
const _: () = assert!(MAX_ADDRESSES < smoltcp::config::IFACE_MAX_ADDR_COUNT);

/// The management port.
pub(crate) struct Management {
    interface: Interface,
    mac: EthernetAddress,
    sockets: SocketSet<'static>,
    waiting: Waiting,
    scratch: Scratch,
    config: Config,
    /// When the stack wants to be asked even if nothing comes in.
    due: Option<Instant>,
    /// Whether the stack has been at work in this turn.
    active: bool,
    #[cfg(feature = "management-auth")]
    auth: Option<Auth>,
    /// Whether the board has a source of randomness.
    #[cfg_attr(not(feature = "management-auth"), expect(dead_code))]
    has_randomness: bool,
}

/// Whether the port can have these addresses.
///
/// # Errors
/// The first that it cannot have.
pub(crate) fn check(config: &Config) -> Result<(), BoardRefusal> {
    address::check(config).map_err(BoardRefusal::Address)
}

impl Management {
    /// A port without addresses.
    pub(crate) fn new(board: &mut impl Board, pool: &mut Pool) -> Self {
        let mut seed = [0; 8];
        let has_randomness = board.random(&mut seed);
        if !has_randomness {
            log!(warn, "no source of randomness: the TCP port stays closed");
        }
        // The NIC's own address follows when there is a NIC.
        let mac = EthernetAddress([2, 0, 0, 0, 0, 0]);
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = u64::from_ne_bytes(seed);
        let (mut waiting, mut scratch) = (Waiting::new(), Scratch::new());
        let mut device = Device::new(&mut waiting, pool, &mut scratch);
        let interface = Interface::new(config, &mut device, StackInstant::ZERO);
        Management {
            interface,
            mac,
            sockets: SocketSet::new(&mut [][..]),
            waiting,
            scratch,
            config: Config::default(),
            due: None,
            active: false,
            #[cfg(feature = "management-auth")]
            auth: None,
            has_randomness,
        }
    }

    /// Lets the port authenticate hosts once it has a key.
    #[cfg(feature = "management-auth")]
    pub(crate) fn authenticate(&mut self, room: &'static mut Room) {
        let (auth, sockets) = Auth::new(room);
        self.auth = Some(auth);
        self.sockets = sockets;
    }

    #[cfg(not(feature = "management-auth"))]
    pub(crate) fn powers(&self) -> Powers {
        Powers {
            authentication: Err(BoardRefusal::NoAuthentication),
            refused: 0,
        }
    }

    #[cfg(feature = "management-auth")]
    pub(crate) fn powers(&self) -> Powers {
        let authentication = match &self.auth {
            None => Err(BoardRefusal::NoAuthentication),
            Some(_) if !self.has_randomness => Err(BoardRefusal::NoRandomness),
            Some(_) => Ok(()),
        };
        Powers {
            authentication,
            refused: self.auth.as_ref().map_or(0, Auth::refused),
        }
    }

    /// Takes these addresses, which [`check`] has found good. Other ones, or another
    /// TCP port, end what connections there are.
    pub(crate) fn configure(&mut self, config: &Config) {
        if self.config == *config {
            return;
        }
        self.config = config.clone();
        for own in &config.addresses {
            log!(info, "management at {}", display!(own.address));
        }
        self.address();
        #[cfg(feature = "management-auth")]
        if let Some(auth) = &mut self.auth {
            let is_open = !config.addresses.is_empty();
            auth.set_port(&mut self.sockets, if is_open { config.tcp_port } else { 0 });
        }
        self.due = Some(Instant::ZERO);
    }

    /// Opens the TCP port for hosts that have this key, or closes it. Another key than
    /// before ends what connections there are.
    pub(crate) fn set_key(&mut self, key: Option<[u8; KEY_LEN]>) {
        #[cfg(feature = "management-auth")]
        if let Some(auth) = &mut self.auth {
            auth.set_key(&mut self.sockets, key);
            self.due = Some(Instant::ZERO);
        }
        #[cfg(not(feature = "management-auth"))]
        let _ = key;
    }

    /// A frame that has come in by the port's NIC; it comes back when the port has no
    /// addresses or too many frames wait already.
    pub(crate) fn take(&mut self, frame: Frame<'static>) -> Result<(), Frame<'static>> {
        match self.config.addresses.is_empty() {
            true => Err(frame),
            false => self.waiting.push_back(frame),
        }
    }

    /// Takes in some of the frames that wait. Does nothing, at the price of a
    /// comparison, when none do and nothing is due.
    pub(crate) fn listen(&mut self, board: &mut impl Board, exit: &mut Exit, now: Instant) {
        let is_due = self.due.is_some_and(|due| due <= now);
        self.active = is_due || !self.waiting.is_empty();
        if !self.active {
            return;
        }
        let Some((nic, mac)) = place(exit) else {
            self.drop_all(exit);
            return;
        };
        self.take_mac(mac);
        #[cfg(feature = "management-auth")]
        if let Some(auth) = &mut self.auth {
            auth.open(&mut self.sockets);
        }
        let mut device = Device::new(&mut self.waiting, &mut exit.pool, &mut self.scratch);
        for _ in 0..BUDGET {
            let sockets = &mut self.sockets;
            #[cfg(feature = "management-auth")]
            if let Some(auth) = &mut self.auth
                && !device.sift(|frame| auth.admits(sockets, frame, now))
            {
                continue;
            }
            let result = self
                .interface
                .poll_ingress_single(stack_time(now), &mut device, sockets);
            if result == PollIngressSingleResult::None {
                break;
            }
            #[cfg(feature = "management-auth")]
            if let Some(auth) = &mut self.auth {
                auth.notice(sockets, now);
            }
        }
        for frame in device.into_made() {
            exit.send_by(board, nic, frame);
        }
        #[cfg(feature = "management-auth")]
        if let Some(auth) = &mut self.auth {
            auth.greet(&mut self.sockets, now, &mut |bytes| board.random(bytes));
        }
    }

    /// Answers one request of the host that has shown the key; returns whether there
    /// was anything to do.
    pub(crate) fn converse(
        &mut self,
        serve: impl FnOnce(&FrameEvent<'_>, &mut [u8]) -> usize,
    ) -> bool {
        #[cfg(feature = "management-auth")]
        if self.active
            && let Some(auth) = &mut self.auth
        {
            return auth.converse(&mut self.sockets, serve);
        }
        let _ = serve;
        false
    }

    /// Sends what there is to send, and finds out when something will be. Returns
    /// whether there is more to do at once; `conversed` tells whether there was a
    /// moment ago.
    pub(crate) fn send(
        &mut self,
        board: &mut impl Board,
        exit: &mut Exit,
        (now, conversed): (Instant, bool),
    ) -> bool {
        if !self.active {
            // A request by the console may have made something due, for the next turn.
            return self.due.is_some_and(|due| due <= now);
        }
        let Some((nic, mac)) = place(exit) else {
            self.due = None;
            return false;
        };
        self.take_mac(mac);
        let mut device = Device::new(&mut self.waiting, &mut exit.pool, &mut self.scratch);
        for _ in 0..ROUNDS {
            let sockets = &mut self.sockets;
            let result = self
                .interface
                .poll_egress(stack_time(now), &mut device, sockets);
            if result == PollResult::None {
                break;
            }
        }
        for frame in device.into_made() {
            exit.send_by(board, nic, frame);
        }
        let stack = self.interface.poll_at(stack_time(now), &self.sockets);
        self.due =
            stack.map(|at| Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
        #[cfg(feature = "management-auth")]
        if let Some(auth) = &self.auth {
            let deadline = auth.deadline(&self.sockets, now);
            self.due = [self.due, deadline].into_iter().flatten().min();
        }
        if conversed {
            self.due = Some(now);
        }
        if exit.pool.is_empty() {
            // Nothing can be done before buffers come back, and what waits has some.
            self.drop_all(exit);
            self.due = Some(now.after(WITHOUT_BUFFERS));
        }
        !self.waiting.is_empty() || self.due.is_some_and(|due| due <= now)
    }

    /// When the port wants a turn even if nothing comes in.
    #[inline]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells the stack its addresses and gateways.
    fn address(&mut self) {
        let config = &self.config;
        let own = config.addresses.iter().map(|own| {
            // Checked: the length fits the address.
            IpCidr::new(own.address.into(), own.prefix_length)
        });
        // Neighbor discovery asks from, and routers are known by, link-local addresses.
        let has_v6 = config.addresses.iter().any(|own| own.address.is_ipv6());
        let local = has_v6.then(|| IpCidr::Ipv6(Ipv6Cidr::new(link_local(self.mac), 64)));
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.extend(own.chain(local).take(addresses.capacity()));
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        routes.remove_default_ipv6_route();
        for gateway in &config.gateways {
            // There is room for one of each version.
            let _ = match gateway {
                IpAddr::V4(gateway) => routes.add_default_ipv4_route(*gateway),
                IpAddr::V6(gateway) => routes.add_default_ipv6_route(*gateway),
            };
        }
    }

    /// Takes the address of the NIC that has the role now.
    fn take_mac(&mut self, mac: MacAddr) {
        let mac = EthernetAddress(mac.bytes());
        // The stack cannot have a group's address, and a NIC has none.
        if self.mac != mac && mac.is_unicast() {
            self.mac = mac;
            self.interface
                .set_hardware_addr(HardwareAddress::Ethernet(mac));
            self.address();
        }
    }

    /// Drops what waits: no NIC has the role any more.
    fn drop_all(&mut self, exit: &mut Exit) {
        while let Some(frame) = self.waiting.pop_front() {
            exit.pool.give_frame(frame);
        }
    }
}

/// The NIC whose role it is, and its address.
fn place(exit: &Exit) -> Option<(usize, MacAddr)> {
    let mut nics = exit.nics.list().iter().enumerate();
    let (nic, entry) = nics.find(|(_, nic)| nic.role == Role::Management)?;
    Some((nic, entry.mac))
}

fn stack_time(now: Instant) -> StackInstant {
    StackInstant::from_micros(i64::try_from(now.micros()).unwrap_or(i64::MAX))
}

/// The link-local address that a MAC address makes (RFC 4291 appendix A).
fn link_local(EthernetAddress([a, b, c, d, e, f]): EthernetAddress) -> Ipv6Address {
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let interface = u64::from_be_bytes(interface);
    Ipv6Address::from_bits((0xfe80 << 112) | u128::from(interface))
}
