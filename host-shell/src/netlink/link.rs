//! Network interfaces.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};

use super::{Netlink, NetlinkError, failed, link_failed};
use crate::mac::Mac;
use crate::sys::netns::NetNs;

/// An interface's operational state (RFC 2863).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; the loopback's and a TUN's usual state.
    Unknown,
    /// Part of it is missing.
    NotPresent,
    /// It is down, or its cable is out.
    Down,
    /// The interface below is down.
    LowerLayerDown,
    /// It is under test.
    Testing,
    /// It waits for something outside, such as authentication.
    Dormant,
    /// It moves packets.
    Up,
}

impl From<State> for OperState {
    fn from(state: State) -> Self {
        match state {
            State::NotPresent => Self::NotPresent,
            State::Down => Self::Down,
            State::LowerLayerDown => Self::LowerLayerDown,
            State::Testing => Self::Testing,
            State::Dormant => Self::Dormant,
            State::Up => Self::Up,
            _ => Self::Unknown,
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; `None` for an interface that is not Ethernet-like.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in octets, Ethernet header not counted.
    pub mtu: u32,
    /// It was set up (`IFF_UP`), which says nothing of a carrier.
    pub up: bool,
    /// Its kind where it is a virtual one, such as `tun`, `veth`, `vxlan`.
    pub kind: Option<String>,
    /// Its operational state.
    pub oper_state: OperState,
    /// The note that [`Netlink::set_alias`] leaves at it.
    pub alias: Option<String>,
}

/// The interface that has an address, as the underlay needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayLink {
    /// The interface.
    pub link: Link,
    /// Length in bits of the address's prefix.
    pub prefix_length: u8,
}

/// A VXLAN device of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanDevice {
    /// The interface's name.
    pub name: String,
    /// Its network identifier; 0 for one that takes it from each packet's metadata.
    pub vni: u32,
    /// The UDP port that it receives at while it is up.
    pub port: u16,
    /// It was set up.
    pub up: bool,
}

impl Netlink {
    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.link_messages().await?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    /// The interface `name`.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`] when there is none; see [`NetlinkError`].
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let doing = || format!("look up the interface \"{name}\"");
        let mut stream = pin!(self.handle.link().get().match_name(name).execute());
        match stream.try_next().await {
            Ok(Some(message)) => Ok(Link::from_message(&message)),
            Ok(None) => Err(NetlinkError::Protocol {
                doing: doing(),
                what: "there was no answer".to_owned(),
            }),
            Err(error) => Err(link_failed(name, doing(), error)),
        }
    }

    /// The interface `name`, or `None` when there is none.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.link(name).await {
            Ok(link) => Ok(Some(link)),
            Err(NetlinkError::NoSuchLink { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The interface that has `address`, or `None` when none has it.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn link_of_address(
        &self,
        address: IpAddr,
    ) -> Result<Option<UnderlayLink>, NetlinkError> {
        let addresses = self.addresses(None).await?;
        let Some(found) = addresses.into_iter().find(|entry| entry.address == address) else {
            return Ok(None);
        };
        let doing = || format!("look up the interface that has {address}");
        let mut stream = pin!(
            self.handle
                .link()
                .get()
                .match_index(found.link_index)
                .execute()
        );
        let message = stream
            .try_next()
            .await
            .map_err(|error| failed(doing(), error))?;
        Ok(message.map(|message| UnderlayLink {
            link: Link::from_message(&message),
            prefix_length: found.prefix_length,
        }))
    }

    /// Sets the MAC address of the interface `name`.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EADDRNOTAVAIL` for a multicast or zero address.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name)
            .address(mac.to_vec())
            .build();
        let doing = || format!("set the MAC address of \"{name}\" to {}", Mac(mac));
        self.set_link(name, message, doing).await
    }

    /// Sets the MTU of the interface `name`, in octets.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EINVAL` outside of the device's range.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).mtu(mtu).build();
        self.set_link(name, message, || {
            format!("set the MTU of \"{name}\" to {mtu}")
        })
        .await
    }

    /// Sets how large super-frames of the interface `name` get, in octets with all headers.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EINVAL` outside of the device's range.
    pub async fn set_gso_max_size(&self, name: &str, size: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(size))
            .build();
        self.set_link(name, message, || {
            format!("set the size of super-frames of \"{name}\" to {size}")
        })
        .await
    }

    /// Sets the interface `name` up.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; see [`NetlinkError`].
    pub async fn set_up(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.set_link(name, message, || format!("set \"{name}\" up"))
            .await
    }

    /// Sets the interface `name` down, by which it loses its routes.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; see [`NetlinkError`].
    pub async fn set_down(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).down().build();
        self.set_link(name, message, || format!("set \"{name}\" down"))
            .await
    }

    /// Moves the interface `name` to the namespace `to`, as `new`. It arrives down,
    /// without addresses and routes, with MAC address, MTU and alias as they were.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EEXIST` when the new name is taken there, and then
    /// the interface may be there by its old name; `EINVAL` for one that cannot move.
    pub async fn move_link(&self, name: &str, to: &NetNs, new: &str) -> Result<(), NetlinkError> {
        let doing = || {
            let to = to.path().display();
            format!("move \"{name}\" to the namespace {to} as \"{new}\"")
        };
        let index = self.index_of(name, doing).await?;
        let message = LinkUnspec::new_with_index(index)
            .setns_by_fd(to.as_fd().as_raw_fd())
            .name(new)
            .build();
        self.set_link(name, message, doing).await
    }

    /// Leaves a note at the interface `name`, which `ip link` shows as its alias:
    /// whose it is. At most 255 octets; an empty one removes the note.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EINVAL` or `ERANGE` for a note that is too long.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).alias(alias).build();
        self.set_link(name, message, || format!("set the alias of \"{name}\""))
            .await
    }

    /// Gives the interface `name` the name `new`.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EEXIST` when the new name is taken.
    pub async fn rename_link(&self, name: &str, new: &str) -> Result<(), NetlinkError> {
        let doing = || format!("rename \"{name}\" to \"{new}\"");
        let index = self.index_of(name, doing).await?;
        let message = LinkUnspec::new_with_index(index).name(new).build();
        self.set_link(name, message, doing).await
    }

    /// Deletes the interface `name`.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EOPNOTSUPP` for a physical device.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).build();
        let request = self.handle.link().del_with_message(message);
        let doing = || format!("delete the interface \"{name}\"");
        request
            .execute()
            .await
            .map_err(|error| link_failed(name, doing(), error))
    }

    /// The VXLAN devices of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn vxlan_devices(&self) -> Result<Vec<VxlanDevice>, NetlinkError> {
        let messages = self.link_messages().await?;
        Ok(messages.iter().filter_map(vxlan_of).collect())
    }

    /// The index of the interface `name`, for a request of which `doing` tells.
    pub(super) async fn index_of(
        &self,
        name: &str,
        doing: impl Fn() -> String,
    ) -> Result<u32, NetlinkError> {
        match self.link(name).await {
            Ok(link) => Ok(link.index),
            Err(NetlinkError::NoSuchLink { link, .. }) => Err(NetlinkError::NoSuchLink {
                doing: doing(),
                link,
            }),
            Err(error) => Err(error),
        }
    }

    async fn link_messages(&self) -> Result<Vec<LinkMessage>, NetlinkError> {
        self.dump(|| self.handle.link().get().execute())
            .await
            .map_err(|error| failed("list the interfaces", error))
    }

    async fn set_link(
        &self,
        name: &str,
        message: LinkMessage,
        doing: impl Fn() -> String,
    ) -> Result<(), NetlinkError> {
        let request = self.handle.link().set(message);
        request
            .execute()
            .await
            .map_err(|error| link_failed(name, doing(), error))
    }
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            kind: None,
            oper_state: OperState::Unknown,
            alias: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::OperState(state) => link.oper_state = (*state).into(),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => link.kind = kind_of(infos),
                _ => {}
            }
        }
        link
    }
}

fn kind_of(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn vxlan_of(message: &LinkMessage) -> Option<VxlanDevice> {
    let data = message.attributes.iter().find_map(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else {
            return None;
        };
        infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        })
    })?;
    let link = Link::from_message(message);
    let mut device = VxlanDevice {
        name: link.name,
        vni: 0,
        port: 0,
        up: link.up,
    };
    for value in data {
        match value {
            InfoVxlan::Id(vni) => device.vni = *vni,
            InfoVxlan::Port(port) => device.port = *port,
            _ => {}
        }
    }
    Some(device)
}
