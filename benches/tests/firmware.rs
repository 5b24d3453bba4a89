//! The bench that runs on bare metal sends what the bench of a host does.

use culvert_benches::scene::{self, Frames};
use culvert_core::channel::Encap;
use culvert_firmware::bench::{CASES, PEERS, ROUTES};

fn scene(encap: Encap, into: bool) -> Frames {
    match into {
        true => scene::from_pod(ROUTES),
        false => scene::from_tunnel(ROUTES, encap),
    }
}

#[test]
fn the_packets_are_the_same() {
    assert_eq!((ROUTES, PEERS), (10_000, scene::PEERS));
    for case in CASES {
        let frames = scene(case.encap, case.into);
        assert_eq!(frames.ingress, case.ingress());
        for (index, (bytes, outer)) in frames.bytes.iter().zip(&frames.outer).enumerate() {
            let mut out = [0; 72];
            let (len, tunnel) = case.packet(index, &mut out);
            assert_eq!(out[..len], bytes[..], "{} {index}", case.name);
            assert_eq!(tunnel, *outer, "{} {index}", case.name);
        }
        assert_eq!(frames.bytes.len(), culvert_firmware::BATCH);
    }
}

#[test]
fn the_tables_send_them_the_same_way() {
    let mut storage = scene::storage(1, Encap::Vxlan);
    for case in CASES {
        let frames = scene(case.encap, case.into);
        let mut theirs = scene::storage(ROUTES, case.encap);
        let (mut here, mut there) = (frames.slots(), frames.slots());
        let (mut here, mut there) = (frames.packets(&mut here), frames.packets(&mut there));
        scene::process(&mut theirs.gateway(), frames.ingress, &mut there);
        // The bench leaves its tables behind.
        culvert_firmware::bench::run(&mut storage, case, || 0).unwrap();
        scene::process(&mut storage.gateway(), frames.ingress, &mut here);
        for (here, there) in here.iter().zip(&there) {
            assert_eq!(here.fate, there.fate, "{}", case.name);
            assert_eq!(here.frame.bytes(), there.frame.bytes(), "{}", case.name);
            assert_eq!(here.frame.outer, there.frame.outer, "{}", case.name);
        }
    }
}
