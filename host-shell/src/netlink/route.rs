//! Routes of the main table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    self, RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
    RouteType, RouteVia,
};

use super::{Netlink, NetlinkError, failed};
use ipnet::IpNet;

/// Who made a route, as `ip route` shows in "proto": by hand (`RTPROT_STATIC`).
pub const PROTOCOL_STATIC: u8 = 4;
/// Who made a route: culvert. A number that rtnetlink(7) and iproute2 give to nobody.
pub const PROTOCOL_CULVERT: u8 = 197;

/// How far away a route's destination is. IPv6 has only [`RouteScope::Global`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteScope {
    /// Anywhere, over a gateway.
    Global,
    /// On the interface's own link.
    Link,
    /// This host or another scope.
    Other,
}

/// A unicast route of the main table with one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to; length 0 is the default route.
    pub destination: IpNet,
    /// The interface.
    pub link: String,
    /// The next hop; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The gateway is taken to be on the link, whatever the addresses say.
    pub onlink: bool,
    /// The source address of what the host itself sends this way.
    pub source: Option<IpAddr>,
    /// How far away the destination is.
    pub scope: RouteScope,
    /// Who made it: a `RTPROT_` number, such as [`PROTOCOL_STATIC`].
    pub protocol: u8,
}

impl Route {
    /// A static route to what is on the link itself.
    pub fn on_link(destination: IpNet, link: &str) -> Self {
        // IPv6 keeps no scope: the kernel always says "global".
        let v4 = destination.addr().is_ipv4();
        Self {
            destination,
            link: link.to_owned(),
            gateway: None,
            onlink: false,
            source: None,
            scope: if v4 {
                RouteScope::Link
            } else {
                RouteScope::Global
            },
            protocol: PROTOCOL_STATIC,
        }
    }

    /// A static route over a gateway.
    pub fn via(destination: IpNet, gateway: IpAddr, link: &str) -> Self {
        Self {
            gateway: Some(gateway),
            scope: RouteScope::Global,
            ..Self::on_link(destination, link)
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {}", self.link)?;
        f.write_str(if self.onlink { " onlink" } else { "" })
    }
}

/// Where the kernel sends a packet to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface.
    pub link: u32,
    /// The router; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Where the kernel sends packets for `destination` to, by whichever table.
    ///
    /// # Errors
    /// `ENETUNREACH` and the like when there is no route; see [`NetlinkError`].
    pub async fn next_hop(&self, destination: IpAddr) -> Result<NextHop, NetlinkError> {
        let doing = || format!("look up the way to {destination}");
        let nothing = |what: &str| NetlinkError::Protocol {
            doing: doing(),
            what: what.to_owned(),
        };
        let length = IpNet::from(destination).prefix_len();
        let query = RouteMessageBuilder::<IpAddr>::new().destination_prefix(destination, length);
        let query = query.map_err(|error| nothing(&error.to_string()))?.build();
        let mut answers = pin!(self.handle.route().get(query).execute());
        let answer = answers.try_next().await;
        let message = answer.map_err(|error| failed(doing(), error))?;
        let message = message.ok_or_else(|| nothing("there was no answer"))?;
        let gateway = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => ip_of(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
                _ => None,
            });
        Ok(NextHop {
            link: output(&message).ok_or_else(|| nothing("the route has no interface"))?,
            gateway,
        })
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `EEXIST` when there is a route to this
    /// destination, by whatever interface ([`NetlinkError::is_exists`]);
    /// `ENETUNREACH` for a gateway that is not on the link; `EINVAL` for bits
    /// behind the prefix.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route(route, false).await
    }

    /// Adds a route in the place of one to the same destination, **whoever made
    /// it and whatever interface it uses**, if there is one.
    ///
    /// # Errors
    /// As [`Netlink::add_route`], `EEXIST` apart.
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route(route, true).await
    }

    /// Deletes the route with this destination, interface and gateway.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; `ESRCH` when there is no such route
    /// ([`NetlinkError::is_not_found`] for both).
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let doing = || format!("delete the route {route}");
        let index = self.index_of(&route.link, doing).await?;
        let mut message = message_of(route, index, doing)?;
        // "Whatever it is": the destination, interface and gateway tell enough.
        message.header.scope = route::RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        message.header.protocol = RouteProtocol::Unspec;
        message
            .attributes
            .retain(|attribute| !matches!(attribute, RouteAttribute::PrefSource(_)));
        let request = self.handle.route().del(message);
        request
            .execute()
            .await
            .map_err(|error| failed(doing(), error))
    }

    /// The unicast routes of the main table that use the interface `link`, IPv4
    /// first; those with several next hops left out.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; see [`NetlinkError`].
    pub async fn routes(&self, link: &str) -> Result<Vec<Route>, NetlinkError> {
        let doing = || format!("list the routes of \"{link}\"");
        let index = self.index_of(link, doing).await?;
        let messages = self.route_messages(doing).await?;
        let routes = messages
            .iter()
            .filter(|message| output(message) == Some(index));
        Ok(routes.filter_map(|route| route_of(route, link)).collect())
    }

    /// The unicast routes of the main table that `protocol` made, IPv4 first; those with
    /// several next hops left out.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn routes_of(&self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        let doing = || format!("list the routes of protocol {protocol}");
        let links = self.links().await?;
        let messages = self.route_messages(doing).await?;
        let routes = messages.iter().filter_map(|message| {
            let index = output(message)?;
            let link = links.iter().find(|link| link.index == index)?;
            route_of(message, &link.name)
        });
        Ok(routes.filter(|route| route.protocol == protocol).collect())
    }

    async fn route_messages(
        &self,
        doing: impl Fn() -> String,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut all = Vec::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let messages: Vec<RouteMessage> = self
                .dump(|| self.handle.route().get(query).execute())
                .await
                .map_err(|error| failed(doing(), error))?;
            all.extend(messages);
        }
        Ok(all)
    }

    async fn put_route(&self, route: &Route, replace: bool) -> Result<(), NetlinkError> {
        let verb = if replace { "replace" } else { "add" };
        let doing = || format!("{verb} the route {route}");
        let index = self.index_of(&route.link, doing).await?;
        let message = message_of(route, index, doing)?;
        let mut request = self.handle.route().add(message);
        if replace {
            request = request.replace();
        }
        request
            .execute()
            .await
            .map_err(|error| failed(doing(), error))
    }
}

fn message_of(
    route: &Route,
    index: u32,
    doing: impl Fn() -> String,
) -> Result<RouteMessage, NetlinkError> {
    let scope = match route.scope {
        RouteScope::Global => route::RouteScope::Universe,
        RouteScope::Link => route::RouteScope::Link,
        RouteScope::Other => route::RouteScope::NoWhere,
    };
    let build = || {
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.destination.addr(), route.destination.prefix_len())?
            .output_interface(index)
            .scope(scope)
            .protocol(RouteProtocol::from(route.protocol));
        if let Some(gateway) = route.gateway {
            builder = builder.gateway(gateway)?;
        }
        if let Some(source) = route.source {
            builder = builder.pref_source(source)?;
        }
        if route.onlink {
            builder = builder.onlink();
        }
        Ok::<_, Box<dyn std::error::Error>>(builder.build())
    };
    build().map_err(|error| NetlinkError::Protocol {
        doing: doing(),
        what: error.to_string(),
    })
}

/// The interface that a route uses.
fn output(message: &RouteMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

/// A message as a route by the interface `link`, which it uses.
fn route_of(message: &RouteMessage, link: &str) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let (mut gateway, mut source) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    Some(Route {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        link: link.to_owned(),
        gateway,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source,
        scope: match header.scope {
            route::RouteScope::Universe => RouteScope::Global,
            route::RouteScope::Link => RouteScope::Link,
            _ => RouteScope::Other,
        },
        protocol: header.protocol.into(),
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
