//! The forms of nodes: each is reached, and left again for a smaller one.

use std::collections::BTreeSet;

use super::*;

use crate::fib::node::is_node;

type Room = FibStorage<u32, 1, 2000, 65_536, 256, 200>;
type Shape = (usize, u32);

/// What all nodes here are behind.
const BASE: u32 = 0x0a01_0000;
const CHILDREN: u32 = 0x0a01_9600;
/// A node in the slot of the first one that `CHILDREN` is in.
const BEHIND: [u32; 2] = [CHILDREN | 0x11, CHILDREN | 0x93];

const WIDE_BIT: usize = 8;
const SMALLEST: Shape = (4, 1);

/// A FIB with one node of interest, beside a list of its prefixes.
struct Scene<'a> {
    fib: Fib<'a, u32>,
    routes: BTreeMap<(u8, u32), u32>,
    seen: BTreeSet<Shape>,
}

impl Scene<'_> {
    fn expected(&self, address: u32) -> u32 {
        let covers = |length: u8, bits: u32| prefix(bits, length).covers(Prefix::host(address));
        let longest = self.routes.iter().rev();
        let mut longest = longest.filter(|((length, bits), _)| covers(*length, *bits));
        longest.next().map_or(0, |(_, value)| *value)
    }

    /// The form and split of the node at 10.1/16, if there is one.
    fn shape(&self) -> Option<Shape> {
        let root = self.fib.v4.roots.get(0x0a01).copied()?;
        is_node(root).then(|| Nodes::shape(root))
    }

    fn check(&mut self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            for last in [0, 0x11, 0x93, 0xff] {
                let address = BASE | slot << 8 | last;
                let expected = self.expected(address);
                assert_eq!(self.fib.lookup(0, address), expected, "{address:x}");
                let mut code = [0];
                self.fib.lookup_batch(0, &[address], &mut code);
                assert_eq!(code, [expected], "{address:x} in a batch");
            }
        }
    }

    fn change(&mut self, at: Prefix<u32>, value: Option<u32>) {
        let key = (at.length, at.bits);
        match value {
            Some(value) => {
                let old = self.routes.insert(key, value);
                assert_eq!(self.fib.insert(0, at, value), Ok(old));
            }
            None => assert_eq!(self.fib.remove(0, at), self.routes.remove(&key)),
        }
        self.seen.extend(self.shape());
        // Around both ends of what was written.
        let first = at.bits >> 8 & 255;
        let last = first + (1 << (24 - at.length.min(24))) - 1;
        let around = [first.saturating_sub(1), first, last, (last + 1).min(255)];
        self.check(around.into_iter());
    }
}

fn with_scene(run: impl FnOnce(&mut Scene<'_>)) {
    let mut storage = boxed::<Room>();
    let mut scene = Scene {
        fib: storage.fib(),
        routes: BTreeMap::new(),
        seen: BTreeSet::new(),
    };
    run(&mut scene);
    while let Some((length, bits)) = scene.routes.keys().next().copied() {
        scene.change(prefix(bits, length), None);
    }
    scene.fib.nodes.check_empty();
}

fn slot_24(number: u32) -> Prefix<u32> {
    prefix(BASE | number << 8, 24)
}

/// Orders of the 256 slots that make runs evenly, side by side, and anywhere.
fn orders() -> [Vec<u32>; 3] {
    let mut random = Random(9);
    let mut left: Vec<u32> = (0..256).collect();
    let mut shuffled = Vec::new();
    while !left.is_empty() {
        let at = usize::try_from(random.next()).unwrap() % left.len();
        shuffled.push(left.swap_remove(at));
    }
    let even = (0..256u32).map(|number| number.reverse_bits() >> 24);
    [even.collect(), (0..256).collect(), shuffled]
}

/// Fills and empties the node in each order, and returns the shapes that it had.
fn shapes(wide: bool) -> BTreeSet<Shape> {
    let mut seen = BTreeSet::new();
    for (there, back) in orders().iter().zip(orders().iter().rev()) {
        with_scene(|scene| {
            if wide {
                for (value, behind) in (301..).zip(BEHIND) {
                    scene.change(Prefix::host(behind), Some(value));
                }
            }
            // Narrow ones are not made smaller at each chance, to be so again soon.
            let small = if wide {
                [(13, 1); 2]
            } else {
                [SMALLEST, (5, 1)]
            };
            for number in there {
                scene.change(slot_24(*number), Some(1 + number));
            }
            let all = scene.shape().unwrap();
            assert_eq!(all.1, 8, "256 runs are in a flat node: {all:?}");
            scene.check(0..256);
            for (left, number) in (0..256).rev().zip(back) {
                scene.change(slot_24(*number), None);
                if left == 1 {
                    let shape = scene.shape().unwrap();
                    assert!(small.contains(&shape), "one is left in {shape:?}");
                }
                if left % 64 == 0 {
                    scene.check(0..256);
                }
            }
            seen.extend(&scene.seen);
        });
    }
    // Shapes that only runs of equal length in each unit have.
    for runs in [20, 40, 80] {
        with_scene(|scene| {
            for slot in 0..256 {
                scene.change(slot_24(slot), Some(1 + slot * runs / 256));
            }
            // All slots are looked at when the node is narrow again.
            for value in [Some(301), None] {
                for behind in BEHIND {
                    scene.change(Prefix::host(behind), value);
                }
            }
            scene.check(0..256);
            seen.extend(&scene.seen);
        });
    }
    seen
}

#[test]
fn each_shape_is_reached_and_left() {
    let narrow = [(1, 8), (4, 1), (4, 2), (5, 1), (6, 1), (6, 2)];
    let mut seen = shapes(false);
    seen.retain(|shape| shape.0 & WIDE_BIT == 0);
    assert_eq!(seen, narrow.into(), "narrow");
    let wide = [(10, 8), (13, 1), (14, 1), (14, 2), (14, 3)];
    let mut seen = shapes(true);
    seen.retain(|shape| shape.0 & WIDE_BIT != 0);
    assert_eq!(seen, wide.into(), "wide");
}

/// At each fullness, a node behind a slot comes and goes.
#[test]
fn a_node_below_makes_a_node_wide_and_its_going_narrow_again() {
    for order in orders() {
        with_scene(|scene| {
            scene.change(prefix(BASE, 17), Some(300));
            for (count, number) in (1u32..).zip(&order) {
                scene.change(slot_24(*number), Some(1 + number % 7));
                if !count.is_power_of_two() && count % 31 != 0 {
                    continue;
                }
                let narrow = scene.shape().unwrap();
                assert_eq!(narrow.0 & WIDE_BIT, 0);
                for (value, behind) in (301..).zip(BEHIND) {
                    scene.change(Prefix::host(behind), Some(value));
                }
                let wide = scene.shape().unwrap();
                assert_ne!(wide.0 & WIDE_BIT, 0);
                scene.check(0..256);
                // Over the slot that leads on, and others.
                scene.change(prefix(CHILDREN, 20), Some(400 + count));
                scene.change(prefix(CHILDREN, 20), None);
                for behind in BEHIND {
                    scene.change(Prefix::host(behind), None);
                }
                let narrow = scene.shape().unwrap();
                assert_eq!(narrow.0 & WIDE_BIT, 0);
                scene.check(0..256);
            }
        });
    }
}

/// Slots of a flat node that become equal are fewer runs, until a smaller one does.
#[test]
fn a_flat_node_whose_slots_become_equal_becomes_small() {
    for order in orders() {
        with_scene(|scene| {
            for number in 0..256 {
                scene.change(slot_24(number), Some(1 + number));
            }
            let flat = scene.shape().unwrap();
            assert_eq!(flat.1, 8);
            for number in order {
                scene.change(slot_24(number), Some(7));
            }
            assert_eq!(scene.shape(), Some(SMALLEST));
            // And at once, by one prefix over slots that differ.
            for number in 0..256 {
                scene.change(slot_24(number), Some(1 + number));
                scene.change(prefix(BASE | number << 8, 25), None);
            }
            assert_eq!(scene.shape(), Some(flat));
            scene.check(0..256);
        });
    }
}

/// Prefixes of all lengths over each other, in a narrow node and a wide one.
#[test]
fn prefixes_that_cover_slots_write_what_a_list_says() {
    let mut random = Random(21);
    for children in [false, true] {
        with_scene(|scene| {
            if children {
                for (value, behind) in (301..).zip(BEHIND) {
                    scene.change(Prefix::host(behind), Some(value));
                }
            }
            for step in 0..operations() / 8 {
                let length = 17 + u8::try_from(random.below(8)).unwrap();
                let slot = u32::try_from(random.below(256)).unwrap();
                let at = prefix(BASE | slot << 8, length);
                // It grows and shrinks again and again.
                let grows = random.below(1000) < if step / 600 % 2 == 0 { 700 } else { 300 };
                let value = 1 + u32::try_from(random.below(4)).unwrap();
                scene.change(at, grows.then_some(value));
                if step % 256 == 0 {
                    scene.check(0..256);
                }
            }
        });
    }
}
