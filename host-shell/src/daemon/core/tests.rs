//! Tests of the channel to an appliance.

use culvert_core::channel::{Operation, Owner};

use super::super::pod::core_error;
use super::*;
use crate::cni::code;

#[tokio::test]
async fn a_lost_connection_names_the_appliance_and_what_comes_next() {
    let channel = "unix:/run/console.sock".to_owned();
    let core = Core::of_appliance(1, channel);
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let Err(error) = core.reconnect(Box::new(near)).await else {
        panic!("nobody has answered");
    };
    assert!(matches!(error, CoreError::Lost { .. }), "{error:?}");
    assert!(error.is_absence());
    let told = core_error(error);
    assert_eq!(told.code, code::TRY_AGAIN);
    let said = "the appliance at unix:/run/console.sock: connection lost (broken pipe)";
    assert_eq!(told.msg, said);
    assert!(told.details.contains("within a second"), "{told}");
    // Who comes now learns it too.
    let error = core.board(Board::Health).await.unwrap_err().to_string();
    assert!(error.contains(said), "{error}");
}

/// Answers as an appliance does that loses its tables before the third question.
fn restarting(far: StdStream) -> std::thread::JoinHandle<()> {
    use culvert_core::channel::{FrameDecoder, MAX_FRAME, serve};
    use std::io::{Read, Write};

    std::thread::spawn(move || {
        let mut far = far;
        let mut lives: [_; 2] = std::array::from_fn(|_| Box::new(culvert_core::Tiny::new()));
        let mut decoder = FrameDecoder::new();
        let (mut asked, mut bytes, mut out) = (0, [0; 4096], vec![0; MAX_FRAME]);
        while let Ok(len @ 1..) = far.read(&mut bytes) {
            let mut answers = Vec::new();
            decoder.feed(&bytes[..len], |event| {
                asked += 1;
                let mut gateway = lives[usize::from(asked > 2)].gateway();
                let len = serve(&mut gateway, &event, &mut out);
                answers.extend_from_slice(&out[..len]);
            });
            if far.write_all(&answers).is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn a_restart_that_another_hello_notices_is_one() {
    let core = Core::of_appliance(7, "unix:/run/console.sock".to_owned());
    let (near, far) = StdStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let appliance = restarting(far);
    let near = UnixStream::from_std(near).unwrap();
    let (welcome, _) = core.reconnect(Box::new(near)).await.unwrap();
    core.open();
    assert_eq!((welcome.previous_epoch, core.epoch()), (0, 7));
    assert_eq!(core.welcome().await.unwrap().previous_epoch, 7);
    let port = Operation::RemovePort(culvert_core::PortId(1));
    let operations = [port];
    // Whoever asks behind that Hello learns it as well, and is not refused something.
    let (noticed, change) =
        tokio::join!(core.welcome(), core.apply(Owner::Attachment, &operations));
    let noticed = noticed.unwrap_err();
    assert!(matches!(noticed, CoreError::Restarted), "{noticed:?}");
    let told = core_error(change.unwrap_err());
    assert_eq!(told.code, code::TRY_AGAIN);
    assert!(told.msg.contains("restarted"), "{told}");
    // The channel is opened anew, and then it is another life than before.
    core.broken().await;
    assert_ne!(core.epoch(), 7);
    appliance.join().unwrap();
}

#[tokio::test]
async fn who_asks_how_things_are_does_not_wait_for_a_replay() {
    let core = Core::of_appliance(1, "unix:/run/console.sock".to_owned());
    let _replay = core.shared.conversation.lock().await;
    *core.state() = (ChannelState::Replaying(Instant::now()), 1);
    let began = Instant::now();
    let error = core.welcome().await.unwrap_err();
    assert!(matches!(error, CoreError::Down(_)), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(1));
    // A long sync later on is no broken channel.
    core.open();
    let error = core.welcome().await.unwrap_err();
    assert!(matches!(error, CoreError::Busy(_)), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(core.or_later::<()>(Err(error)).is_err());
    assert!(matches!(core.channel_state(), ChannelState::Connected));
}
