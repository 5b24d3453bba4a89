//! Tests of cores that are told the same: they are told it in one order, and what one
//! does otherwise is noticed.

use std::io::{Read as _, Write};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use culvert_core::channel::{
    Apply, FrameDecoder, FrameEvent, MAX_FRAME, Operation, Owner, Port, PortKind, decode_request,
    serve,
};
use culvert_core::{Counter, PeerId, PortId, TableError, heapless};

use super::*;

/// How a core is when its first message comes.
#[derive(Clone, Copy, Default)]
struct Nature {
    /// It has this port already.
    has: Option<Port_>,
    /// It takes so long for each answer.
    slow: Duration,
    /// It closes its stream instead of this answer.
    ends_at: Option<usize>,
}

type Port_ = (PortId, u16);

struct Replica {
    thread: JoinHandle<()>,
    /// What it was asked, in order.
    asked: mpsc::Receiver<Request>,
}

fn port((id, mtu): Port_) -> Port {
    Port::new(id, mtu, PortKind::Underlay)
}

/// A core at the other end of a stream.
fn replica(nature: Nature) -> (StdStream, Replica) {
    let (near, mut far) = StdStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let (tell, asked) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut tables = Box::new(culvert_core::Tiny::new());
        let mut gateway = tables.gateway();
        if let Some(has) = nature.has {
            let operation = Operation::UpsertPort(port(has));
            gateway.apply(Owner::Attachment, &[operation]).unwrap();
        }
        let mut decoder = FrameDecoder::new();
        let (mut count, mut bytes, mut out) = (0, [0; 4096], vec![0; MAX_FRAME]);
        while let Ok(len @ 1..) = far.read(&mut bytes) {
            let mut answers = Vec::new();
            decoder.feed(&bytes[..len], |event| {
                count += 1;
                if let FrameEvent::Message(message) = event
                    && let Ok((_, request)) = decode_request(message)
                {
                    let _ = tell.send(request);
                }
                thread::sleep(nature.slow);
                let len = serve(&mut gateway, &event, &mut out);
                answers.extend_from_slice(&out[..len]);
            });
            let ended = nature.ends_at.is_some_and(|end| count >= end);
            if ended || far.write_all(&answers).is_err() {
                return;
            }
        }
    });
    (near, Replica { thread, asked })
}

async fn cores<const N: usize>(natures: [Nature; N]) -> (Core, Vec<Replica>) {
    let (streams, replicas): (Vec<_>, Vec<_>) = natures.into_iter().map(replica).unzip();
    let core = Core::of_workers(streams, 7).await.unwrap();
    (core, replicas)
}

fn upsert(id: u16) -> [Operation; 1] {
    [Operation::UpsertPort(port((PortId(id), 1500)))]
}

/// What each was asked, after the stream is closed.
fn asked(core: Core, replicas: Vec<Replica>) -> Vec<Vec<Request>> {
    drop(core);
    let logs = replicas.into_iter().map(|replica| {
        replica.thread.join().unwrap();
        replica.asked.iter().collect()
    });
    logs.collect()
}

#[tokio::test]
async fn all_are_told_everything_in_one_order() {
    let slow = Nature {
        slow: Duration::from_millis(2),
        ..Nature::default()
    };
    let (core, replicas) = cores([Nature::default(), slow, Nature::default()]).await;
    let each = (0..8).map(|id| {
        let core = &core;
        async move { core.apply(Owner::Cluster, &upsert(id)).await }
    });
    for told in futures_util::future::join_all(each).await {
        told.unwrap();
    }
    assert_eq!(core.replace(Owner::Cluster, &upsert(3)).await.unwrap(), 7);
    assert_eq!(core.ports().await.unwrap().len(), 1);
    let logs = asked(core, replicas);
    assert!(logs[0].len() > 12, "{}", logs[0].len());
    assert!(logs.iter().all(|log| *log == logs[0]));
}

#[tokio::test]
async fn what_the_tables_have_is_asked_of_one_and_what_was_counted_of_all() {
    let (core, replicas) = cores([Nature::default(); 2]).await;
    core.apply(Owner::Cluster, &upsert(1)).await.unwrap();
    assert_eq!(core.routes().await.unwrap(), []);
    assert_eq!(core.ports().await.unwrap()[0].0.entry.id, PortId(1));
    let counters = core.counters().await.unwrap();
    assert_eq!(counters.len(), Counter::all().count());
    assert_eq!(core.frames().await.unwrap(), [0, 0]);
    let events = core.events(&[5]).await.unwrap();
    assert_eq!(events, [vec![], vec![]]);
    let logs = asked(core, replicas);
    let of = |log: &[Request], wanted: &Request| log.iter().filter(|r| *r == wanted).count();
    let routes = Request::Read(culvert_core::channel::Read::Routes { after: None });
    assert_eq!(logs.iter().map(|log| of(log, &routes)).sum::<usize>(), 1);
    let [after, from_the_first] = [5, 0].map(|after| Request::Events { after });
    assert_eq!(
        (of(&logs[0], &after), of(&logs[1], &from_the_first)),
        (1, 1)
    );
}

#[tokio::test]
async fn replicas_refuse_together() {
    let (core, replicas) = cores([Nature::default(); 2]).await;
    let id = PeerId(3);
    let operation = [Operation::UpsertRoute(culvert_core::channel::Route {
        network: culvert_core::NetworkId(0),
        prefix: culvert_core::IpPrefix::host("10.0.0.1".parse().unwrap()),
        next_hop: culvert_core::channel::NextHop::Peer {
            peer: id,
            encap: culvert_core::channel::Encap::Vxlan,
        },
    })];
    let error = core.apply(Owner::Cluster, &operation).await.unwrap_err();
    let refused = matches!(&error, CoreError::Table { error, .. } if matches!(error, TableError::NotFound { .. }));
    assert!(refused, "{error:?}");
    core.apply(Owner::Cluster, &upsert(1)).await.unwrap();
    asked(core, replicas);
}

#[tokio::test]
async fn one_that_answers_otherwise_ends_it() {
    // It has a port of the other owner, and refuses what the first one takes.
    let other = Nature {
        has: Some((PortId(4), 1500)),
        ..Nature::default()
    };
    let (near, first) = replica(Nature::default());
    let (far, second) = replica(other);
    let error = match Core::of_workers(vec![near, far], 7).await {
        Ok(_) => panic!("the use of the tables is told at Hello"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("the workers' tables differ"), "{error}");
    drop((first, second));

    let (core, replicas) = cores([Nature::default(); 2]).await;
    // As if one had been told something alone.
    let mut lone = core.shared.replicas.lock().await;
    let alone = Request::Apply(Apply {
        transaction: 1,
        owner: Owner::Attachment,
        operations: heapless::Vec::from_slice(&upsert(4)).unwrap(),
    });
    let wait = (Instant::now() + PATIENCE, PATIENCE);
    let nothing = Request::Ping;
    lone.ask_each(&[nothing, alone], wait).await.unwrap();
    drop(lone);
    let changed = [Operation::UpsertPort(port((PortId(4), 1400)))];
    let error = core.apply(Owner::Cluster, &changed).await.unwrap_err();
    assert!(matches!(error, CoreError::Diverged(_)), "{error:?}");
    let said = error.to_string();
    for word in [
        "UpsertPort",
        "worker 0 answered Applied",
        "worker 1 Refused",
    ] {
        assert!(said.contains(word), "{said}");
    }
    // Nobody is told anything any more, and who waits for it learns of it.
    let error = core.counters().await.unwrap_err();
    assert!(matches!(error, CoreError::Diverged(_)), "{error:?}");
    assert!(said.ends_with(&core.diverged().await));
    asked(core, replicas);
}

#[tokio::test]
async fn one_that_is_gone_is_an_error_and_no_difference() {
    let ending = Nature {
        ends_at: Some(2),
        ..Nature::default()
    };
    let (core, replicas) = cores([Nature::default(), ending]).await;
    let error = core.apply(Owner::Cluster, &upsert(1)).await.unwrap_err();
    assert!(matches!(error, CoreError::Gone(_)), "{error:?}");
    assert!(core.divergence().is_none());
    asked(core, replicas);
}

#[tokio::test]
async fn who_gives_up_has_told_all_or_none() {
    let slow = Nature {
        slow: Duration::from_millis(20),
        ..Nature::default()
    };
    let (core, replicas) = cores([Nature::default(), slow]).await;
    for id in 0..8 {
        // Gone at its first wait, or a little later.
        let patience = Duration::from_micros(u64::from(id) * 20);
        let _ = timeout(patience, core.apply(Owner::Cluster, &upsert(id))).await;
    }
    core.apply(Owner::Cluster, &upsert(7)).await.unwrap();
    let logs = asked(core, replicas);
    assert_eq!(logs[0], logs[1]);
    assert!(logs[0].len() > 5, "{}", logs[0].len());
}
