//! Addresses of interfaces.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::{Netlink, NetlinkError, failed, link_failed};
use crate::mac::Mac;
use ipnet::{IpNet, Ipv6Net};

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's number.
    pub link_index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length in bits of its prefix.
    pub prefix_length: u8,
}

impl Netlink {
    /// The addresses of the interface `link`, or of all for `None`.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; see [`NetlinkError`].
    pub async fn addresses(
        &self,
        link: Option<&str>,
    ) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let doing = || match link {
            Some(link) => format!("list the addresses of \"{link}\""),
            None => "list the addresses".to_owned(),
        };
        let mut request = self.handle.address().get();
        if let Some(link) = link {
            request = request.set_link_index_filter(self.index_of(link, doing).await?);
        }
        let messages: Vec<AddressMessage> = self
            .dump(|| request.execute())
            .await
            .map_err(|error| failed(doing(), error))?;
        Ok(messages
            .iter()
            .filter_map(InterfaceAddress::from_message)
            .collect())
    }

    /// Adds an address to the interface `link`. An IPv6 address works at once:
    /// nobody is asked whether it is a duplicate (`IFA_F_NODAD`).
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EEXIST` when the interface has it already
    /// ([`NetlinkError::is_exists`]); `EINVAL` for an impossible prefix length.
    pub async fn add_address(&self, link: &str, prefix: IpNet) -> Result<(), NetlinkError> {
        let doing = || format!("add the address {prefix} to \"{link}\"");
        let index = self.index_of(link, doing).await?;
        let mut request = self
            .handle
            .address()
            .add(index, prefix.addr(), prefix.prefix_len());
        if prefix.addr().is_ipv6() {
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(|error| link_failed(link, doing(), error))
    }

    /// Adds the link-local IPv6 address that follows from `mac` to the interface `link`,
    /// for one whose kernel makes none itself; having it already is fine.
    ///
    /// # Errors
    /// As [`Netlink::add_address`], `EEXIST` apart.
    pub async fn add_link_local(&self, link: &str, mac: Mac) -> Result<(), NetlinkError> {
        let prefix = Ipv6Net::new_assert(mac.link_local(), 64);
        match self.add_address(link, prefix.into()).await {
            Err(error) if !error.is_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes an address from the interface `link`, and with it the IPv4 routes that
    /// have it as their source; IPv6 routes lose their source only.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EADDRNOTAVAIL` when the interface does not have
    /// it ([`NetlinkError::is_not_found`] for both).
    pub async fn delete_address(&self, link: &str, prefix: IpNet) -> Result<(), NetlinkError> {
        let doing = || format!("delete the address {prefix} from \"{link}\"");
        let mut message = AddressMessage::default();
        message.header.index = self.index_of(link, doing).await?;
        message.header.prefix_len = prefix.prefix_len();
        message.header.family = match prefix.addr() {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes = vec![AddressAttribute::Local(prefix.addr())];
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(|error| link_failed(link, doing(), error))
    }
}

impl InterfaceAddress {
    fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link IFA_ADDRESS is the other end's, IFA_LOCAL ours.
                AddressAttribute::Local(local) => address = Some(*local),
                AddressAttribute::Address(other) => address = address.or(Some(*other)),
                _ => {}
            }
        }
        Some(Self {
            link_index: message.header.index,
            address: address?,
            prefix_length: message.header.prefix_len,
        })
    }
}
