//! What others do to the node's network while the daemon runs: another MTU of the
//! underlay is adopted, and what is deleted of the direct routes and of the underlay's TAP
//! comes back.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::Daemon;
use super::host::is_same;
use crate::netlink::Changes;

/// Changes come in swarms; how long to let one pass.
const SETTLE: Duration = Duration::from_secs(1);
/// How soon to listen again when the kernel no longer tells of changes.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

impl Daemon {
    /// Looks after the underlay and the direct routes until the future is dropped.
    pub(super) async fn watch_network(&self) -> Infallible {
        loop {
            match Changes::listen() {
                Ok(mut changes) => {
                    self.set_problem("changes", None);
                    // What happened while nobody listened.
                    self.look_after().await;
                    while changes.next().await.is_some() {
                        sleep(SETTLE).await;
                        self.look_after().await;
                    }
                }
                Err(error) => {
                    let problem = format!("changes of the node's network go unnoticed: {error}");
                    self.set_problem("changes", Some(problem));
                }
            }
            sleep(LISTEN_AGAIN).await;
        }
    }

    async fn look_after(&self) {
        if let Err(error) = self.look_at_underlay().await {
            // `culvert status` asks again and says so.
            tracing::debug!("{error}");
        }
        let mended = self.mend_direct_routes().await;
        self.set_problem("direct routes", mended.err());
        let mended = self.mend_wire().await;
        self.set_problem("wire", mended.err());
    }

    /// Adds the direct routes that are lost.
    async fn mend_direct_routes(&self) -> Result<(), String> {
        let _turn = self.changing.lock().await;
        let wanted = self.site().direct_routes();
        if wanted.is_empty() {
            return Ok(());
        }
        let present = self.present_direct_routes().await;
        let present = present.map_err(|error| error.to_string())?;
        let mut failed = Vec::new();
        for route in &wanted {
            if present.iter().any(|present| is_same(present, route)) {
                continue;
            }
            match self.bring_route(route).await {
                Ok(()) => tracing::warn!("the route {route} was lost, and is back"),
                Err(error) => failed.push(error.to_string()),
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("; ")),
        }
    }
}
