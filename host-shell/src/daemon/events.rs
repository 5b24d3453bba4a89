//! What happened in the core: read from its channel, kept for `culvert events`, and
//! written to the log as far as that is of use.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use culvert_core::channel::{self, MAX_OPERATIONS, Operation, Owner, PATH_MTU_LIFETIME};
use culvert_core::{PeerId, PortId};
use tokio::time::{MissedTickBehavior, interval};

use super::site::Site;
use super::{Daemon, decode};
use crate::api::{Event, EventKind, Events};

/// How often the core is asked.
const PERIOD: Duration = Duration::from_millis(500);
/// How often it is asked where one worker has to learn of it what another one knows.
const PERIOD_OF_SEVERAL: Duration = Duration::from_millis(100);
/// Events kept.
const KEPT: usize = 1000;
/// Lines in the log in each [`LOG_WINDOW`], of drops and, apart from them, of the rest.
const LOG_LINES: u32 = 10;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// The last events.
#[derive(Default)]
pub(super) struct EventLog {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The number of the last one.
    last: u64,
    /// The last one of each core, by its own numbers, which begin at 1 in each of its lives.
    cursors: Vec<u64>,
    kept: VecDeque<Event>,
    /// What the core learned of the ways to other nodes, and when.
    path_mtus: HashMap<u16, (u16, Instant)>,
    drops: LogLimit,
    learned: LogLimit,
}

/// So many lines in each window.
#[derive(Default)]
struct LogLimit {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether a line may be written, and then how many were not before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let over = |began: Instant| now.saturating_duration_since(began) >= LOG_WINDOW;
        if self.began.is_none_or(over) {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines >= LOG_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl EventLog {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is kept behind an event's number; all, when that is yet to come: it is of a
    /// daemon that was here before.
    pub(super) fn after(&self, after: u64) -> Events {
        let inner = self.inner();
        let after = if after > inner.last { 0 } else { after };
        let events = inner.kept.iter().filter(|event| event.number > after);
        let events: Vec<Event> = events.cloned().collect();
        let told = u64::try_from(events.len()).unwrap_or(u64::MAX);
        Events {
            lost: (inner.last - after).saturating_sub(told),
            last: inner.last,
            events,
        }
    }

    /// The path MTU to a peer that the core still believes.
    pub(super) fn path_mtu(&self, peer: PeerId) -> Option<u16> {
        let inner = self.inner();
        let (mtu, at) = inner.path_mtus.get(&peer.0)?;
        (at.elapsed() < PATH_MTU_LIFETIME).then_some(*mtu)
    }

    /// Forgets the ways to peers that are others now.
    pub(super) fn forget_peers(&self, gone: impl Fn(PeerId) -> bool) {
        let mut inner = self.inner();
        inner.path_mtus.retain(|peer, _| !gone(PeerId(*peer)));
    }

    /// The number in each core's present life of its last event.
    fn cursors(&self) -> Vec<u64> {
        self.inner().cursors.clone()
    }

    /// The number of an event that a core has as `sequence`. Those that the core no
    /// longer kept have theirs, too.
    fn number(&self, core: usize, sequence: u64) -> u64 {
        let mut inner = self.inner();
        let lacking = (core + 1).saturating_sub(inner.cursors.len());
        inner.cursors.extend(std::iter::repeat_n(0, lacking));
        let before = std::mem::replace(&mut inner.cursors[core], sequence);
        // A core that has begun anew unnoticed begins with small ones.
        inner.last + sequence.saturating_sub(before).max(1)
    }

    /// Goes on with the first event of another life of the core, which knows nothing of
    /// the ways to other nodes.
    pub(super) fn restarted(&self) {
        let mut inner = self.inner();
        inner.cursors.clear();
        inner.path_mtus.clear();
    }

    fn keep(&self, event: Event) {
        let mut inner = self.inner();
        inner.last = event.number;
        let limit = match event.kind {
            EventKind::Drop { .. } => &mut inner.drops,
            _ => &mut inner.learned,
        };
        if let Some(left_out) = limit.admit(Instant::now()) {
            log(&event, left_out);
        }
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event);
    }
}

/// The events of all cores, each with its core's number, in the order of their times;
/// those of one core stay in theirs.
fn in_order(cores: Vec<Vec<channel::Event>>) -> Vec<(usize, channel::Event)> {
    let mut all = Vec::new();
    for (core, events) in cores.into_iter().enumerate() {
        let mut latest = 0;
        for event in events {
            latest = event.micros.max(latest);
            all.push((latest, (core, event)));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, event)| event).collect()
}

fn log(event: &Event, left_out: u64) {
    if left_out > 0 {
        tracing::info!(
            "{left_out} events are not in the log; `culvert events` has the last {KEPT}"
        );
    }
    match &event.kind {
        EventKind::Drop {
            reason,
            port,
            packet,
            ..
        } => tracing::info!(port, packet, "dropped: {reason}"),
        EventKind::PathMtu {
            peer,
            underlay,
            mtu,
        } => tracing::info!(peer, ?underlay, mtu, "the path has a smaller MTU"),
        EventKind::Neighbor {
            port, address, mac, ..
        } => match mac {
            Some(mac) => tracing::info!(port, %address, %mac, "neighbor found"),
            None => tracing::info!(port, %address, "neighbor lost"),
        },
    }
}

impl Daemon {
    /// Asks the core for its events until the future is dropped.
    pub(super) async fn watch_events(&self) -> Infallible {
        let several = self.core.count() > 1;
        let mut turn = interval(if several { PERIOD_OF_SEVERAL } else { PERIOD });
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            match self.core.events(&self.events.cursors()).await {
                Ok(events) => {
                    let events = in_order(events);
                    if several {
                        self.spread(&events).await;
                    }
                    if !events.is_empty() {
                        self.take_events(events).await;
                    }
                }
                // That the core is gone is noticed elsewhere.
                Err(error) => tracing::debug!("no events: {error}"),
            }
        }
    }

    /// Tells all cores what one of them has learned of ways to other nodes.
    async fn spread(&self, events: &[(usize, channel::Event)]) {
        let learned = events.iter().filter_map(|(_, event)| match event.kind {
            channel::EventKind::PathMtu { peer, mtu } => Some((peer, mtu)),
            _ => None,
        });
        // Of what came later a core may have learned less before.
        let mut least: BTreeMap<PeerId, u16> = BTreeMap::new();
        for (peer, mtu) in learned {
            let known = least.entry(peer).or_insert(mtu);
            *known = mtu.min(*known);
        }
        let all = least.into_iter();
        let all: Vec<Operation> = all
            .map(|(peer, mtu)| Operation::SetPathMtu { peer, mtu })
            .collect();
        for operations in all.chunks(MAX_OPERATIONS) {
            let told = self.core.apply(Owner::Cluster, operations).await;
            if let Err(error) = told {
                tracing::warn!("what one worker learned of path MTUs is not told to all: {error}");
            }
        }
    }

    async fn take_events(&self, events: Vec<(usize, channel::Event)>) {
        let site = self.site();
        let attachments = self.with_store(|store| store.list()).await;
        let attachments = attachments.unwrap_or_default();
        let port_name = |port: PortId| {
            let mut all = attachments.iter();
            match all.find(|attachment| attachment.port == port.0) {
                _ if port == site.underlay_port() => {
                    format!("underlay {}", site.underlay.link.name)
                }
                _ if Some(port) == site.host_port() => {
                    format!("host {}", site.config.device.as_deref().unwrap_or_default())
                }
                Some(attachment) => {
                    let key = &attachment.key;
                    let container: String = key.container_id.chars().take(12).collect();
                    format!("pod {container} {}", key.ifname)
                }
                None => format!("port {port}"),
            }
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_millis = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0));
        for (core, event) in events {
            let number = self.events.number(core, event.sequence);
            let kind = self.event_kind(&site, &port_name, event.kind);
            self.events.keep(Event {
                number,
                unix_millis,
                kind,
            });
        }
    }

    fn event_kind(
        &self,
        site: &Site,
        port_name: &dyn Fn(PortId) -> String,
        kind: channel::EventKind,
    ) -> EventKind {
        match kind {
            channel::EventKind::Drop {
                reason,
                port,
                length,
                header,
            } => EventKind::Drop {
                reason: reason.name().to_owned(),
                help: reason.help().to_owned(),
                port: port_name(port),
                length,
                packet: decode::describe(&header, site.has_sockets(port)),
            },
            channel::EventKind::PathMtu { peer, mtu } => {
                let learned = (mtu, Instant::now());
                self.events.inner().path_mtus.insert(peer.0, learned);
                let node = site.nodes().get(&peer.0).copied();
                EventKind::PathMtu {
                    peer: node.map_or_else(|| peer.to_string(), |node| node.name.clone()),
                    underlay: node.map(|node| node.underlay),
                    mtu,
                }
            }
            channel::EventKind::Neighbor { port, address, mac } => EventKind::Neighbor {
                port: port_name(port),
                address,
                mac: mac.map(Into::into),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_number(number: u64) -> Event {
        Event {
            number,
            unix_millis: 0,
            kind: EventKind::Drop {
                reason: "not-ip".to_owned(),
                help: String::new(),
                port: "port 7".to_owned(),
                length: 60,
                packet: String::new(),
            },
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped_and_learns_what_it_missed() {
        let log = EventLog::default();
        // The core did not keep 2 and 3.
        for number in [1, 4, 5] {
            log.keep(drop_number(number));
        }
        let seen = |after| {
            let events = log.after(after);
            let numbers: Vec<u64> = events.events.iter().map(|event| event.number).collect();
            (numbers, events.lost, events.last)
        };
        assert_eq!(seen(0), (vec![1, 4, 5], 2, 5));
        assert_eq!(seen(4), (vec![5], 0, 5));
        assert_eq!(seen(5), (vec![], 0, 5));
        assert_eq!(seen(99), (vec![1, 4, 5], 2, 5));
        for number in 6..=2000 {
            log.keep(drop_number(number));
        }
        let (numbers, lost, last) = seen(0);
        assert_eq!((numbers.len(), lost, last), (KEPT, 1000, 2000));
        assert_eq!(numbers[0], 1001);
    }

    #[test]
    fn events_of_several_cores_are_told_in_their_order_with_numbers_of_their_own() {
        let at = |sequence, micros| channel::Event {
            sequence,
            micros,
            kind: channel::EventKind::PathMtu {
                peer: PeerId(1),
                mtu: 1400,
            },
        };
        let log = EventLog::default();
        let take = |cores: Vec<Vec<channel::Event>>| -> Vec<(usize, u64)> {
            let events = in_order(cores).into_iter();
            let numbered = events.map(|(core, event)| {
                let number = log.number(core, event.sequence);
                log.keep(drop_number(number));
                (core, number)
            });
            numbered.collect()
        };
        // The second core has two that it did not keep; the first one's clock goes back.
        let first = vec![at(1, 10), at(2, 40), at(3, 35)];
        let told = take(vec![first, vec![at(3, 20)]]);
        assert_eq!(told, [(0, 1), (1, 4), (0, 5), (0, 6)]);
        assert_eq!(log.cursors(), [3, 3]);
        assert_eq!((log.after(0).lost, log.after(0).last), (2, 6));
        // One that has begun anew unnoticed.
        assert_eq!(take(vec![vec![], vec![at(1, 50)]]), [(1, 7)]);
        assert_eq!(log.cursors(), [3, 1]);
        log.restarted();
        assert_eq!(take(vec![vec![at(1, 5)]]), [(0, 8)]);
    }

    #[test]
    fn the_log_has_so_many_lines_in_a_window_and_says_what_it_lacks() {
        let mut limit = LogLimit::default();
        let began = Instant::now();
        let written = (0..1000).filter_map(|_| limit.admit(began)).count();
        assert_eq!(written, 10);
        let soon = began + LOG_WINDOW - Duration::from_millis(1);
        assert_eq!(limit.admit(soon), None);
        let later = began + LOG_WINDOW;
        assert_eq!(limit.admit(later), Some(991));
        assert_eq!(limit.admit(later), Some(0));
    }

    #[test]
    fn a_path_mtu_is_shown_as_long_as_it_is_believed() {
        let log = EventLog::default();
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(PATH_MTU_LIFETIME) else {
            return; // The machine has not run for so long.
        };
        log.inner().path_mtus.insert(3, (1300, now));
        log.inner().path_mtus.insert(4, (1300, long_ago));
        let all = || [2, 3, 4].map(|peer| log.path_mtu(PeerId(peer)));
        assert_eq!(all(), [None, Some(1300), None]);
        log.forget_peers(|peer| peer == PeerId(3));
        assert_eq!(all(), [None, None, None]);
    }
}
