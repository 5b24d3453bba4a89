//! Offload mode's channel: opened, and opened again whenever it breaks or the appliance
//! has restarted; each time the appliance is told all that it is to know before anything
//! else is asked of it.

use std::convert::Infallible;
use std::future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_core::channel::{Board, BoardAnswer, Description, Health, Nic, Operation, Owner, Role};
use culvert_core::{MacAddr, Reason, TableError};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::core::{ChannelState, Core, CoreError};
use super::del::problem_name_in_appliance;
use super::link::Stream;
use super::site::{PeerIds, Site};
use super::{Daemon, StartError, cluster, start_error};
use crate::api;
use crate::appliance::key::Key;
use crate::appliance::{manage, noise};
use crate::config::{ChannelAddress, Offload, Uplink};
use crate::mac::Mac;
use crate::state::{Attachment, Phase};
use crate::sys::serial::Serial;

/// How long opening the channel may take.
const OPENING: Duration = Duration::from_secs(3);
/// How soon to try again, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

impl Daemon {
    /// Looks after the channel to the appliance until the future is dropped.
    pub(super) async fn keep_channel(&self) -> Infallible {
        if self.site().config.offload.is_none() {
            return future::pending().await;
        }
        let mut wait = FIRST_WAIT;
        loop {
            let opened = Instant::now();
            self.core.broken().await;
            if let ChannelState::Down { why, .. } = self.core.channel_state() {
                tracing::warn!("the appliance is not reached: {why}");
            }
            // One that breaks at once is no better than none.
            if opened.elapsed() > LAST_WAIT {
                wait = FIRST_WAIT;
            }
            loop {
                sleep(wait).await;
                wait = (wait * 2).min(LAST_WAIT);
                match self.connect().await {
                    Ok(()) => {
                        self.carry_out_postponed().await;
                        break;
                    }
                    Err(error) => tracing::debug!("the appliance is not reached: {error}"),
                }
            }
        }
    }

    /// Opens the channel and tells the appliance everything.
    ///
    /// # Errors
    /// In words, which the channel's state has too.
    pub(super) async fn connect(&self) -> Result<(), StartError> {
        let site = self.site();
        let Some(offload) = &site.config.offload else {
            return Ok(());
        };
        let connected = self.try_to_connect(offload).await;
        if let Err(error) = &connected {
            self.core.close(error.0.clone()).await;
        }
        connected
    }

    async fn try_to_connect(&self, offload: &Offload) -> Result<(), StartError> {
        let channel = &offload.channel;
        self.core.let_go().await;
        let opened = timeout(OPENING, open(channel)).await;
        let silent = |_| {
            let seconds = OPENING.as_secs();
            Err(format!("no connection within {seconds} s"))
        };
        let stream = opened.unwrap_or_else(silent).map_err(|why| {
            StartError(format!(
                "{channel} cannot be opened: {why}; is the appliance running{}?",
                match channel {
                    ChannelAddress::Tcp { .. } => ", and was it told this address and key",
                    _ => "",
                }
            ))
        })?;
        let before = self.core.epoch();
        let greeted = self.core.reconnect(stream).await;
        let (welcome, core) = greeted.map_err(|error| {
            StartError(format!(
                "{channel} is open, and Hello was not answered: {error}"
            ))
        })?;
        // Nothing is known of the life before when that ended in the midst of a
        // conversation, and perhaps there was another one since.
        if before == 0 || welcome.previous_epoch != before {
            self.events.restarted();
        }
        let told = self.tell_all(&core).await;
        told.map_err(|error| {
            StartError(format!(
                "the appliance could not be told its tables: {error}"
            ))
        })?;
        self.core.open();
        Ok(())
    }

    /// Brings the appliance's tables to what configuration and database say. What is the
    /// same before and after is forwarded all the while.
    async fn tell_all(&self, core: &Core) -> Result<(), StartError> {
        let _site_stays = self.changing.lock().await;
        let _attachments_stay = core.no_changes().await;
        let started = Instant::now();
        self.take_peer_ids(core).await?;
        // It may be another one than when the channel was opened.
        let site = self.site();
        let Some(offload) = &site.config.offload else {
            return Ok(());
        };
        let too_small = self.uplink_problem(core, &offload.uplink).await;
        if let Some(why) = too_small.map_err(start_error)? {
            return Err(StartError(why));
        }
        self.set_roles(core, offload).await.map_err(start_error)?;
        self.set_management(core, offload).await?;
        self.tell_cluster(core, &site).await?;
        let pods = self.tell_pods(core, &site).await?;
        tracing::info!(
            pods,
            milliseconds = started.elapsed().as_millis(),
            "the appliance has its tables"
        );
        Ok(())
    }

    /// Gives other nodes the ids that they have in the appliance since an earlier daemon:
    /// an id cannot get another node in place.
    async fn take_peer_ids(&self, core: &Core) -> Result<(), StartError> {
        let peers = core.peers().await.map_err(start_error)?;
        if peers.is_empty() {
            return Ok(());
        }
        let site = self.site();
        let ids = PeerIds::of_core(&peers);
        let new = Site::new(site.config.clone(), site.underlay.clone(), &ids)?;
        *self.site.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(new);
        Ok(())
    }

    /// Why the appliance cannot send what the uplink is to carry.
    ///
    /// # Errors
    /// [`CoreError`] when the appliance is not reached any more.
    pub(super) async fn uplink_problem(
        &self,
        core: &Core,
        uplink: &Uplink,
    ) -> Result<Option<String>, CoreError> {
        match core.board(Board::Describe).await {
            Ok(BoardAnswer::Description(description)) => {
                Ok(mtu_problem(uplink.mtu, description.largest_frame))
            }
            // A shell that does not tell it.
            Ok(_) | Err(CoreError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives NICs the roles that they are to have, and those that the file does not name
    /// what their MAC addresses tell. One that does not take it keeps nobody from the rest.
    ///
    /// # Errors
    /// [`CoreError`] when the appliance is not reached any more.
    pub(super) async fn set_roles(&self, core: &Core, offload: &Offload) -> Result<(), CoreError> {
        let found = nics(core).await?;
        let (vacate, wanted) = role_changes(&offload.nics, &found);
        let mut refused = Vec::new();
        for (mac, role) in vacate
            .into_iter()
            .map(|mac| (mac, Role::Unused))
            .chain(wanted)
        {
            let why = match core.board(Board::SetRole { mac, role }).await {
                Ok(BoardAnswer::Done) => continue,
                Ok(BoardAnswer::Refused(why)) => why.to_string(),
                Ok(_) => "another answer".to_owned(),
                Err(CoreError::Refused(error)) => error.to_string(),
                Err(error) => return Err(error),
            };
            let mac = Mac::from(mac);
            // As at the appliance's start, it is nothing when another has its role.
            match offload.nics.iter().any(|(named, _)| *named == mac) {
                true => refused.push(format!("{mac} as {role}: {why}")),
                false => tracing::debug!("{mac} does not become {role}: {why}"),
            }
        }
        let problem = format!(
            "NICs without the role they are to have: {}",
            refused.join("; ")
        );
        self.set_problem("nics", (!refused.is_empty()).then_some(problem));
        Ok(())
    }

    /// Tells the appliance its management port. It forwards without one.
    async fn set_management(&self, core: &Core, offload: &Offload) -> Result<(), StartError> {
        let Some(management) = &offload.management else {
            return Ok(());
        };
        let key = management.key_file.as_deref().map(Key::read).transpose();
        // One that cannot be read any more is no reason to close a port that is open.
        let mut problem = key.as_ref().err().map(ToString::to_string);
        let mut requests = manage::requests(&management.port, key.ok().flatten().as_ref()).to_vec();
        requests.truncate(if problem.is_some() { 1 } else { 2 });
        for request in requests {
            let judged = match core.board(request.clone()).await {
                Ok(answer) => manage::judge(&request, &answer),
                Err(CoreError::Refused(error)) => Err(format!("the appliance said: {error}")),
                Err(error) => return Err(start_error(error)),
            };
            if let Err(why) = judged {
                problem.get_or_insert(why);
            }
        }
        let problem = problem.map(|why| format!("the appliance's management port: {why}"));
        self.set_problem("management", problem);
        Ok(())
    }

    async fn tell_cluster(&self, core: &Core, site: &Site) -> Result<(), StartError> {
        let operations = cluster::operations(site).map_err(start_error)?;
        match core.replace(Owner::Cluster, &operations).await {
            Err(CoreError::Table { operation, error }) if is_of_another_configuration(&error) => {
                tracing::warn!(
                    "the appliance has tables of another configuration, and refused {operation} beside them ({error}): they go first, and forwarding pauses"
                );
            }
            // Without its tables the appliance would refuse this as well: it forwards by
            // those that it has, and is asked again.
            done => return done.map(drop).map_err(start_error),
        }
        for owner in [Owner::Attachment, Owner::Cluster] {
            core.replace(owner, &[]).await.map_err(start_error)?;
        }
        let replaced = core.replace(Owner::Cluster, &operations).await;
        replaced.map(drop).map_err(start_error)
    }

    /// Tells the appliance of all pods that are complete; any others it forgets. Returns
    /// how many it has.
    async fn tell_pods(&self, core: &Core, site: &Site) -> Result<usize, StartError> {
        let all = self.with_store(|store| store.list()).await;
        let mut pods = all.map_err(|error| StartError(error.msg))?;
        pods.retain(|pod| pod.phase == Phase::Committed && pod.device.is_some());
        let ports = pods.iter().map(|pod| cluster::pod_port(pod, site));
        let operations: Result<Vec<_>, _> =
            ports.map(|port| port.map(Operation::UpsertPort)).collect();
        let operations = operations.map_err(start_error)?;
        let refused = core.replace_what_can_be(Owner::Attachment, &operations);
        let refused = refused.await.map_err(start_error)?;
        let why = |index: usize| refused.iter().find(|(at, _)| *at == index);
        for (index, pod) in pods.iter().enumerate() {
            let why = why(index).map(|(_, error)| cut_off(pod, error));
            self.set_problem(&problem_name_in_appliance(&pod.key), why);
        }
        Ok(pods.len() - refused.len())
    }

    /// What the appliance tells of itself; of one that is not reached how the channel is.
    pub(super) async fn appliance(&self) -> Option<api::Appliance> {
        let site = self.site();
        let offload = site.config.offload.as_ref()?;
        let state = match self.core.channel_state() {
            ChannelState::Connected => "connected".to_owned(),
            ChannelState::Replaying(_) => "is being told its tables".to_owned(),
            ChannelState::Down { since, why } => {
                format!("not reached for {} s: {why}", since.elapsed().as_secs())
            }
        };
        Some(api::Appliance {
            channel: offload.channel.to_string(),
            state,
            description: self.description().await.map(describe),
            health: self.health().await.map(health),
            nics: nics(&self.core)
                .await
                .unwrap_or_default()
                .iter()
                .map(nic)
                .collect(),
        })
    }

    async fn description(&self) -> Option<Description> {
        match self.core.board(Board::Describe).await {
            Ok(BoardAnswer::Description(description)) => Some(description),
            _ => None,
        }
    }

    async fn health(&self) -> Option<Health> {
        match self.core.board(Board::Health).await {
            Ok(BoardAnswer::Health(health)) => Some(health),
            _ => None,
        }
    }
}

/// All NICs; those of a shell that does not tell them are none.
async fn nics(core: &Core) -> Result<Vec<Nic>, CoreError> {
    let mut all: Vec<Nic> = Vec::new();
    while let Ok(from) = u8::try_from(all.len()) {
        match core.board(Board::Nics { from }).await {
            Ok(BoardAnswer::Nics(page)) if !page.is_empty() => all.extend(page),
            Ok(_) | Err(CoreError::Refused(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Which NICs are to become unused first, so that others can have their roles, and which
/// roles to give then: the file's before those that MAC addresses tell.
fn role_changes(file: &[(Mac, Role)], found: &[Nic]) -> (Vec<MacAddr>, Vec<(MacAddr, Role)>) {
    let now = |mac: MacAddr| found.iter().find(|nic| nic.mac == mac).map(|nic| nic.role);
    let named = file.iter().map(|(mac, role)| (MacAddr::from(*mac), *role));
    let by_mac = found.iter().map(|nic| nic.mac);
    let by_mac = by_mac.filter(|mac| !file.iter().any(|(named, _)| MacAddr::from(*named) == *mac));
    let all = named.chain(by_mac.map(|mac| (mac, Role::of(mac))));
    let changed: Vec<_> = all.filter(|(mac, role)| now(*mac) != Some(*role)).collect();
    let occupied = |mac: &MacAddr| now(*mac).is_some_and(|role| role != Role::Unused);
    let vacate = changed.iter().map(|(mac, _)| *mac).filter(occupied);
    let vacate = vacate.collect();
    let wanted = |(mac, role): &(MacAddr, Role)| *role != Role::Unused || !occupied(mac);
    (vacate, changed.into_iter().filter(wanted).collect())
}

/// Why packets of `mtu` bytes do not fit an appliance with frames of up to `largest`
/// bytes, Ethernet header included.
fn mtu_problem(mtu: u32, largest: u16) -> Option<String> {
    let room = u32::from(largest).saturating_sub(ETHERNET);
    (mtu > room).then(|| {
        format!(
            "offload.uplink.mtu is {mtu}, and the appliance's frames have up to {largest} bytes; set it to at most {room}"
        )
    })
}

/// Whether an entry that is there already was in the way, so that it helps to remove it.
fn is_of_another_configuration(error: &TableError) -> bool {
    matches!(
        error,
        TableError::OwnedBy { .. }
            | TableError::Conflict { .. }
            | TableError::Invalid(Reason::Immutable)
    )
}

fn cut_off(pod: &Attachment, error: &CoreError) -> String {
    let container = &pod.key.container_id;
    format!("container {container} is cut off: {error}; delete and add it again")
}

fn describe(description: Description) -> String {
    format!(
        "{} {}, {} NICs, {} buffers, frames of up to {} bytes",
        description.architecture,
        description.version,
        description.nics,
        description.buffers,
        description.largest_frame
    )
}

fn health(health: Health) -> api::Health {
    api::Health {
        uptime_seconds: health.micros / 1_000_000,
        turns: health.turns,
        stalls: health.stalls,
        longest_turn_micros: health.longest_turn,
        frames: health.frames,
        buffers_free: health.buffers_free,
        unsent: health.unsent,
        no_buffer: health.no_buffer,
        stack: health.stack,
    }
}

fn nic(nic: &Nic) -> api::Nic {
    api::Nic {
        mac: nic.mac.into(),
        role: nic.role.to_string(),
        rx_frames: nic.rx_frames,
        rx_unclaimed: nic.rx_unclaimed,
        rx_too_long: nic.rx_too_long,
        tx_frames: nic.tx_frames,
        tx_full: nic.tx_full,
    }
}

/// Opens the channel, or says in words why not.
async fn open(channel: &ChannelAddress) -> Result<Box<dyn Stream>, String> {
    let io = |error: io::Error| error.to_string();
    Ok(match channel {
        ChannelAddress::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(io)?),
        ChannelAddress::Serial(path) => Box::new(Serial::open(path).map_err(io)?),
        ChannelAddress::Tcp { address, key_file } => {
            let key = Key::read(key_file).map_err(|error| error.to_string())?;
            let stream = noise::connect(address, &key).await;
            Box::new(stream.map_err(|error| error.to_string())?)
        }
    })
}

#[cfg(test)]
#[path = "appliance_tests.rs"]
mod tests;
