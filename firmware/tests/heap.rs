//! Whether the image's heap is large enough for all that the management port does, and
//! whether anything but handshakes uses it: what the appliance allocates comes from the
//! same allocator with the same size as in an image.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use culvert_core::channel::{
    Board as Ask, BoardAnswer, Management, PresharedKey, Request, Response, WireAddress,
};
use culvert_firmware::HEAP;

use host::{Host, greet, record};
use station::Station;
use world::{World, is_inside};

#[expect(dead_code, reason = "another test uses all of it")]
#[path = "management/host.rs"]
mod host;
#[path = "management/station.rs"]
mod station;
#[expect(dead_code, reason = "another test uses all of it")]
#[path = "management/world.rs"]
mod world;

/// The image's allocator for the appliance, and the system's for the test around it.
struct Both {
    image: emballoc::Allocator<HEAP>,
    allocations: AtomicUsize,
    live: AtomicUsize,
    most: AtomicUsize,
}

#[global_allocator]
static BOTH: Both = Both {
    image: emballoc::Allocator::new(),
    allocations: AtomicUsize::new(0),
    live: AtomicUsize::new(0),
    most: AtomicUsize::new(0),
};

// SAFETY: each block is freed by the allocator that it is of, which its address tells.
unsafe impl GlobalAlloc for Both {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_inside() {
            // SAFETY: the caller's promise is handed on.
            return unsafe { System.alloc(layout) };
        }
        self.allocations.fetch_add(1, Relaxed);
        let live = self.live.fetch_add(layout.size(), Relaxed) + layout.size();
        self.most.fetch_max(live, Relaxed);
        // SAFETY: as above.
        unsafe { self.image.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let start = (&raw const self.image).addr();
        if !(start..start + size_of_val(&self.image)).contains(&block.addr()) {
            // SAFETY: as above.
            return unsafe { System.dealloc(block, layout) };
        }
        self.live.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { self.image.dealloc(block, layout) }
    }
}

const KEY: [u8; 32] = [7; 32];
const TO: (&str, u16) = ("192.0.2.9", 7373);

/// The number of allocations while something is done.
fn allocations(work: impl FnOnce()) -> usize {
    let before = BOTH.allocations.load(Relaxed);
    work();
    BOTH.allocations.load(Relaxed) - before
}

fn live() -> usize {
    BOTH.live.load(Relaxed)
}

// One test: they would count each other's.
#[test]
fn only_handshakes_use_the_heap_and_it_is_large_enough() {
    let mut world = World::new();
    let mut station = Station::new(1, &["192.0.2.50/24"]);
    let address = WireAddress {
        address: TO.0.parse().unwrap(),
        prefix_length: 24,
    };
    let management = Management {
        addresses: [address].into_iter().collect(),
        tcp_port: TO.1,
        ..Management::default()
    };
    let quiet = allocations(|| {
        for ask in [
            Ask::SetManagement(management),
            Ask::SetKey {
                key: Some(PresharedKey(KEY)),
            },
        ] {
            assert_eq!(world.ask_board(ask), BoardAnswer::Done);
        }
        assert!(station.ping(&mut world, TO.0, b"ping"));
        // What is no greeting.
        let handle = station.connect(TO.0, TO.1);
        assert!(station.is_connected(&mut world, handle));
        station.socket(handle).send_slice(b"GET /").unwrap();
        assert!(station.is_ended(&mut world, handle, 100));
        station.sockets.remove(handle);
    });
    assert_eq!(quiet, 0);

    let mut one = 0;
    for session in 0..100 {
        let mut host = Host::connect(&mut world, &mut station, TO, &KEY).unwrap();
        let talk = allocations(|| {
            let answer = host.ask(&mut world, &mut station, &Request::Ping);
            assert_eq!(answer, Some(Response::Pong), "{session}");
        });
        assert_eq!(talk, 0);
        one = one.max(live());
        // Some go, some are pushed out by the next.
        if session % 2 == 0 {
            station.socket(host.handle).close();
            station.until(&mut world, 100, |_| false);
            assert_eq!(live(), 0);
        }
        station.socket(host.handle).abort();
        station.step(&mut world);
        station.sockets.remove(host.handle);
    }
    assert!(one > 0);

    // All places taken by strangers whose greetings were right, again and again.
    let (_, greeting) = greet(&KEY);
    for _ in 0..60 {
        let handle = station.connect(TO.0, TO.1);
        assert!(station.is_connected(&mut world, handle));
        station
            .socket(handle)
            .send_slice(&record(&greeting))
            .unwrap();
        station.until(&mut world, 100, |station| {
            station.socket(handle).recv_queue() == 50
        });
        station.socket(handle).abort();
        station.sockets.remove(handle);
    }
    let most = BOTH.most.load(Relaxed);
    println!("a host that speaks takes {one} bytes, all of them at most {most} of {HEAP}");
    assert!(most * 4 <= HEAP, "{most} bytes");
    world.ask_board(Ask::SetKey { key: None });
    station.until(&mut world, 100, |_| false);
    assert_eq!(live(), 0);
}
