//! The cores that a control channel leads to: an appliance's one, or one in each worker.
//!
//! Those of workers are replicas: they are told the same in the same order from empty,
//! so they answer the same. One that does not is a fault of the program, and is said.

use std::time::Duration;

use culvert_core::channel::{Owned, PAGE, Page, Port, PortStats, Read, Request, Response};
use culvert_core::heapless;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::core::CoreError;
use super::link::{Link, Stream};

/// Characters of an answer in a complaint.
const SHOWN: usize = 300;

/// Until when to wait for answers, and the patience that led to it.
pub(super) type Wait = (Instant, Duration);

/// All cores.
pub(super) struct Replicas {
    /// At least one.
    links: Vec<Link>,
}

impl Replicas {
    /// One core, which is not reached yet.
    pub(super) fn one() -> Replicas {
        Replicas {
            links: vec![Link::new()],
        }
    }

    /// A core at the end of each of these streams.
    pub(super) fn of(streams: Vec<Box<dyn Stream>>) -> Replicas {
        let links = streams.into_iter().map(|stream| {
            let mut link = Link::new();
            link.attach(stream);
            link
        });
        Replicas {
            links: links.collect(),
        }
    }

    /// Goes on by this stream to the only core.
    pub(super) fn attach(&mut self, stream: Box<dyn Stream>) {
        if let [only] = &mut self.links[..] {
            only.attach(stream);
        }
    }

    /// Lets go of all streams.
    pub(super) fn detach(&mut self) {
        self.links.iter_mut().for_each(Link::detach);
    }

    /// Asks all cores, or one where one knows what all do, for an answer that holds for
    /// all together: what they counted is summed.
    ///
    /// # Errors
    /// [`CoreError`]; [`CoreError::Diverged`] when they do not answer the same.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        wait: Wait,
    ) -> Result<Response, CoreError> {
        match (&mut self.links[..], request) {
            ([only], _) => only.ask(request, wait).await,
            ([first, ..], Request::Read(read)) if !matches!(read, Read::Ports { .. }) => {
                first.ask(request, wait).await
            }
            _ => {
                let links = self.links.iter_mut();
                let answers = join_all(links.map(|link| link.ask(request, wait))).await;
                together(request, answers)
            }
        }
    }

    /// Asks each core one of the requests; returns their answers in their order.
    ///
    /// # Errors
    /// [`CoreError`] of the first that gives none.
    pub(super) async fn ask_each(
        &mut self,
        requests: &[Request],
        wait: Wait,
    ) -> Result<Vec<Response>, CoreError> {
        let each = self.links.iter_mut().zip(requests);
        let answers = join_all(each.map(|(link, request)| link.ask(request, wait))).await;
        answers.into_iter().collect()
    }

    /// How many cores there are.
    pub(super) fn count(&self) -> usize {
        self.links.len()
    }
}

/// The one answer of all.
fn together(
    request: &Request,
    answers: Vec<Result<Response, CoreError>>,
) -> Result<Response, CoreError> {
    // One that has not answered says nothing about its tables.
    let is_answer = |answer: &Result<_, _>| matches!(answer, Ok(_) | Err(CoreError::Refused(_)));
    if answers.iter().any(|answer| !is_answer(answer)) {
        let all: Result<Vec<_>, _> = answers.into_iter().filter(|a| !is_answer(a)).collect();
        return match all {
            Err(error) => Err(error),
            Ok(_) => Err(CoreError::Confused),
        };
    }
    let mut answers = answers.into_iter();
    let Some(mut first) = answers.next() else {
        return Err(CoreError::Confused);
    };
    for (number, other) in (1..).zip(answers) {
        if !joins(&mut first, &other) {
            return Err(CoreError::Diverged(format!(
                "to {} worker 0 answered {}, and worker {number} {}",
                shown(request),
                of(&first),
                of(&other)
            )));
        }
    }
    first
}

/// Adds what another core has answered; whether it fits.
fn joins(sum: &mut Result<Response, CoreError>, other: &Result<Response, CoreError>) -> bool {
    match (sum, other) {
        (
            Ok(Response::Counters { values, next }),
            Ok(Response::Counters {
                values: more,
                next: end,
            }),
        ) => next == end && add(values, more),
        (Ok(Response::Page(Page::Ports(ports))), Ok(Response::Page(Page::Ports(more)))) => {
            ports.len() == more.len()
                && ports
                    .iter_mut()
                    .zip(more)
                    .all(|(port, more)| add_port(port, more))
        }
        (Ok(one), Ok(other)) => one == other,
        (Err(CoreError::Refused(one)), Err(CoreError::Refused(other))) => one == other,
        _ => false,
    }
}

fn add(values: &mut heapless::Vec<(u16, u64), PAGE>, more: &[(u16, u64)]) -> bool {
    let same = values.iter().map(|(number, _)| *number);
    if !same.eq(more.iter().map(|(number, _)| *number)) {
        return false;
    }
    for ((_, value), (_, more)) in values.iter_mut().zip(more) {
        *value = value.saturating_add(*more);
    }
    true
}

fn add_port(port: &mut (Owned<Port>, PortStats), more: &(Owned<Port>, PortStats)) -> bool {
    let (sum, more_stats) = (&mut port.1, &more.1);
    for (value, more) in [
        (&mut sum.rx_frames, more_stats.rx_frames),
        (&mut sum.rx_bytes, more_stats.rx_bytes),
        (&mut sum.tx_frames, more_stats.tx_frames),
        (&mut sum.tx_bytes, more_stats.tx_bytes),
        (&mut sum.dropped, more_stats.dropped),
    ] {
        *value = value.saturating_add(more);
    }
    port.0 == more.0
}

fn of(answer: &Result<Response, CoreError>) -> String {
    match answer {
        Ok(answer) => shown(answer),
        Err(error) => format!("\"{error}\""),
    }
}

fn shown(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
