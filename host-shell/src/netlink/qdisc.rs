//! What frames wait in before their interface takes them.

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Netlink, NetlinkError, failed};

impl Netlink {
    /// Has the frames of the interface `name` wait nowhere but in the interface itself
    /// (`noqueue`). To be called before it is set up: a TAP with several queues would
    /// get a queueing discipline for each of the 256 that it could have, which takes
    /// several megabytes.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`]; see [`NetlinkError`].
    pub async fn set_no_queue(&self, name: &str) -> Result<(), NetlinkError> {
        let doing = || format!("set the queueing discipline of \"{name}\"");
        let index = self.index_of(name, doing).await?;
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        let kind = TcAttribute::Kind("noqueue".to_owned());
        message.attributes.push(kind);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut handle = self.handle.clone();
        let mut answers = handle
            .request(request)
            .map_err(|error| failed(doing(), error))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(failed(doing(), rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }
}
