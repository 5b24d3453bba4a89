//! What changes in the network configuration of a namespace, as the kernel tells it.

use std::io;
use std::pin::Pin;

use futures_util::{FutureExt, Stream, StreamExt, future};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::{NetlinkError, PROTOCOL_CULVERT};

/// The changes that may concern culvert: of interfaces and addresses, the end of a
/// route that culvert made, and that of filters and qdiscs.
pub struct Changes {
    messages: Pin<Box<dyn Stream<Item = ()> + Send>>,
    /// Without it the connection ends.
    _handle: Handle,
}

impl Changes {
    /// Listens in the calling thread's namespace from now on; a task on the calling
    /// runtime serves the connection until this is dropped.
    ///
    /// # Errors
    /// [`NetlinkError::Connect`], also when no runtime with I/O is there.
    pub fn listen() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Connect { source };
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|error| failed(io::Error::other(error)))?;
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Tc,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
        runtime.spawn(connection);
        let messages = messages
            .filter(|(message, _)| future::ready(concerns(&message.payload)))
            .map(|_| ());
        Ok(Changes {
            messages: Box::pin(messages),
            _handle: handle,
        })
    }

    /// Waits for the next change, which stands for all that have come by then; `None`
    /// when the connection has ended.
    pub async fn next(&mut self) -> Option<()> {
        self.messages.next().await?;
        while let Some(Some(())) = self.messages.next().now_or_never() {}
        Some(())
    }
}

fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage as Message;
    match payload {
        // Some are lost, whatever they were.
        NetlinkPayload::Overrun(_) => true,
        NetlinkPayload::InnerMessage(message) => match message {
            Message::NewLink(_) | Message::DelLink(_) => true,
            Message::NewAddress(_) | Message::DelAddress(_) => true,
            Message::DelTrafficFilter(_) | Message::DelQueueDiscipline(_) => true,
            Message::DelRoute(route) => u8::from(route.header.protocol) == PROTOCOL_CULVERT,
            _ => false,
        },
        _ => false,
    }
}
