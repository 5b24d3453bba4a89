//! NICs and what they are for: which port a frame comes from, and by which NIC a
//! port's frames leave.

use culvert_core::channel::{BoardRefusal, Nic, Role};
use culvert_core::{MacAddr, PortId};
use heapless::Vec;

use crate::MAX_NICS;
use crate::trunk::LAST_VID;

/// Ports that an appliance has at most.
pub const MAX_PORTS: usize = 4096;
/// In the table of ports: no NIC.
const NONE: u8 = u8::MAX;
const _: () = assert!(MAX_NICS < NONE as usize);

/// Where a port's frames leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    /// By which NIC.
    pub nic: usize,
    /// With which VLAN identifier, on a trunk.
    pub vid: Option<u16>,
}

/// All NICs, with their roles and counters.
///
/// A port has a NIC of its own or is a tag of a trunk. A trunk's ports end where
/// those of a trunk with a higher base begin, and a NIC of its own goes before.
pub(crate) struct Nics {
    list: Vec<Nic, MAX_NICS>,
    by_port: [u8; MAX_PORTS],
}

impl Nics {
    /// NICs with these MAC addresses, in the board's order, and the roles that the
    /// addresses tell; of two with the same role the first has it. Addresses behind the
    /// [`MAX_NICS`]th are left out.
    pub(crate) fn new(macs: impl Iterator<Item = MacAddr>) -> Self {
        let list = macs.take(MAX_NICS).map(|mac| Nic {
            mac,
            role: Role::Unused,
            rx_frames: 0,
            rx_unclaimed: 0,
            rx_too_long: 0,
            tx_frames: 0,
            tx_full: 0,
        });
        let mut nics = Nics {
            list: list.collect(),
            by_port: [NONE; MAX_PORTS],
        };
        for index in 0..nics.list.len() {
            let role = nics.list.get(index).map(|nic| Role::of(nic.mac));
            if let Some(role) = role
                && nics.check(index, role).is_ok()
                && let Some(nic) = nics.list.get_mut(index)
            {
                nic.role = role;
            }
        }
        nics.find_ways();
        nics
    }

    /// The NICs, in the board's order.
    pub(crate) fn list(&self) -> &[Nic] {
        &self.list
    }

    /// A NIC's entry, to count in.
    #[inline]
    pub(crate) fn get_mut(&mut self, nic: usize) -> Option<&mut Nic> {
        self.list.get_mut(nic)
    }

    /// A NIC's role.
    #[inline]
    pub(crate) fn role(&self, nic: usize) -> Role {
        self.list.get(nic).map_or(Role::Unused, |nic| nic.role)
    }

    /// Gives a NIC a role.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub(crate) fn set_role(&mut self, mac: MacAddr, role: Role) -> Result<(), BoardRefusal> {
        let index = self.list.iter().position(|nic| nic.mac == mac);
        let index = index.ok_or(BoardRefusal::NoNic(mac))?;
        self.check(index, role)?;
        if let Some(nic) = self.list.get_mut(index) {
            nic.role = role;
        }
        self.find_ways();
        Ok(())
    }

    /// Whether a NIC can have a role.
    fn check(&self, index: usize, role: Role) -> Result<(), BoardRefusal> {
        let first = match role {
            Role::Port(port) => Some(port.0),
            Role::Trunk { base } => Some(base.saturating_add(1)),
            Role::Unused | Role::Management => None,
        };
        if let Some(port) = first
            && usize::from(port) >= MAX_PORTS
        {
            return Err(BoardRefusal::NoPort(PortId(port)));
        }
        let mut others = self.list.iter().enumerate();
        if role != Role::Unused && others.any(|(i, nic)| i != index && nic.role == role) {
            return Err(BoardRefusal::RoleTaken(role));
        }
        Ok(())
    }

    /// Fills the table of ports anew.
    fn find_ways(&mut self) {
        self.by_port = [NONE; MAX_PORTS];
        let mut trunks = Vec::<(u16, u8), MAX_NICS>::new();
        for (nic, index) in self.list.iter().zip(0..) {
            if let Role::Trunk { base } = nic.role {
                // In order as they come: sorting them would take 8 KiB of the image.
                let trunk = (base, index);
                let higher = trunks.iter().position(|other| *other > trunk);
                // There are not more of them than NICs.
                let _ = trunks.insert(higher.unwrap_or(trunks.len()), trunk);
            }
        }
        for (base, index) in trunks {
            let ports = self.by_port.iter_mut().skip(usize::from(base) + 1);
            ports
                .take(usize::from(LAST_VID))
                .for_each(|way| *way = index);
        }
        for (nic, index) in self.list.iter().zip(0..) {
            if let Role::Port(port) = nic.role
                && let Some(way) = self.by_port.get_mut(usize::from(port.0))
            {
                *way = index;
            }
        }
    }

    /// Where a port's frames leave; `None` when nothing has that port.
    #[inline]
    pub(crate) fn way(&self, port: PortId) -> Option<Way> {
        let nic = usize::from(*self.by_port.get(usize::from(port.0))?);
        let vid = match self.list.get(nic)?.role {
            Role::Trunk { base } => Some(tag_of(base, usize::from(port.0))?),
            _ => None,
        };
        Some(Way { nic, vid })
    }

    /// The port of a VLAN identifier on a trunk; `None` when that is another NIC's.
    #[inline]
    pub(crate) fn port(&self, nic: usize, base: u16, vid: u16) -> Option<PortId> {
        let port = PortId(base.checked_add(vid)?);
        let way = *self.by_port.get(usize::from(port.0))?;
        (usize::from(way) == nic).then_some(port)
    }
}

/// The VLAN identifier of a port on a trunk; `None` when it can have none.
fn tag_of(base: u16, port: usize) -> Option<u16> {
    let vid = u16::try_from(port).ok()?.checked_sub(base)?;
    (1..=LAST_VID).contains(&vid).then_some(vid)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn nics(roles: &[Role]) -> Nics {
        Nics::new(roles.iter().map(|role| role.mac()))
    }

    #[test]
    fn roles_are_told_by_mac_addresses() {
        let nics = nics(&[
            Role::Port(PortId(7)),
            Role::Management,
            Role::Trunk { base: 100 },
        ]);
        assert_eq!(nics.way(PortId(7)), Some(Way { nic: 0, vid: None }));
        assert_eq!(nics.way(PortId(8)), None);
        let vid = Some(1);
        assert_eq!(nics.way(PortId(101)), Some(Way { nic: 2, vid }));
        assert_eq!(nics.port(2, 100, 1), Some(PortId(101)));
        assert_eq!(nics.role(1), Role::Management);
        assert_eq!(nics.role(9), Role::Unused);
    }

    #[test]
    fn the_first_of_two_equal_roles_has_it() {
        let nics = nics(&[Role::Management, Role::Management]);
        assert_eq!(nics.role(0), Role::Management);
        assert_eq!(nics.role(1), Role::Unused);
    }

    #[test]
    fn a_nic_of_its_own_goes_before_a_trunk_and_a_higher_base_before_a_lower() {
        let nics = nics(&[
            Role::Trunk { base: 0 },
            Role::Trunk { base: 1000 },
            Role::Port(PortId(5)),
        ]);
        let way = |port| nics.way(PortId(port)).map(|way| (way.nic, way.vid));
        assert_eq!(way(0), None);
        assert_eq!(way(4), Some((0, Some(4))));
        assert_eq!(way(5), Some((2, None)));
        assert_eq!(way(1000), Some((0, Some(1000))));
        assert_eq!(way(1001), Some((1, Some(1))));
        assert_eq!(way(4095), Some((1, Some(3095))));
        // What is another NIC's does not come in by a trunk.
        assert_eq!(nics.port(0, 0, 5), None);
        assert_eq!(nics.port(0, 0, 1001), None);
        assert_eq!(nics.port(1, 1000, 4094), None);
    }

    #[test]
    fn roles_are_refused_by_name_and_change_nothing() {
        let mut nics = nics(&[Role::Port(PortId(1)), Role::Unused]);
        let other = MacAddr::new([2; 6]);
        assert_eq!(
            nics.set_role(other, Role::Management),
            Err(BoardRefusal::NoNic(other))
        );
        let far = PortId(4096);
        let mac = Role::Port(PortId(1)).mac();
        let refused = nics.set_role(mac, Role::Port(far));
        assert_eq!(refused, Err(BoardRefusal::NoPort(far)));
        let refused = nics.set_role(mac, Role::Trunk { base: 4095 });
        assert_eq!(refused, Err(BoardRefusal::NoPort(far)));
        let taken = Role::Port(PortId(1));
        assert_eq!(
            nics.set_role(MacAddr::ZERO, taken),
            Err(BoardRefusal::RoleTaken(taken))
        );
        assert_eq!(nics.set_role(mac, taken), Ok(()));
        assert_eq!(nics.way(PortId(1)), Some(Way { nic: 0, vid: None }));
        assert_eq!(nics.set_role(mac, Role::Unused), Ok(()));
        assert_eq!(nics.way(PortId(1)), None);
    }
}
