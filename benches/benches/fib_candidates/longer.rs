//! IPv6's prefixes that are longer than 64 bits: few, so that tables of the first 64
//! bits answer for the others alone.

use crate::candidate::bytes_of;
use crate::ranges::Range;

/// Of a next hop: the rest is the index of a /64's list.
const LIST: u16 = 1 << 15;

/// By /64 with longer prefixes: where ranges of its last 64 bits start.
#[derive(Default)]
pub struct Longer(Vec<Vec<(u64, u16)>>);

impl Longer {
    /// Takes all ranges that do not start at a /64, and returns those of the first 64
    /// bits: a /64 that has a list leads to it.
    pub fn split(ranges: &[Range]) -> (Vec<(u64, u16)>, Longer) {
        let (mut starts, mut lists): (Vec<(u64, u16)>, _) = (Vec::new(), Vec::new());
        let mut before = 0;
        for of_64 in ranges.chunk_by(|a, b| a.start >> 64 == b.start >> 64) {
            let (first, last) = (of_64[0], of_64[of_64.len() - 1]);
            let start = (first.start >> 64) as u64;
            // Where the one before has a list, its last range goes on up to here.
            starts.pop_if(|last| last.0 == start);
            if first.start as u64 == 0 && of_64.len() == 1 {
                starts.push((start, first.hop));
            } else {
                let own = of_64.iter().map(|range| (range.start as u64, range.hop));
                let index = u16::try_from(lists.len()).expect("few such /64s");
                lists.push([(0, before)].into_iter().chain(own).collect());
                starts.push((start, LIST | index));
                starts.push((start + 1, last.hop));
            }
            before = last.hop;
        }
        (starts, Longer(lists))
    }

    /// The next hop of a key by that of its /64.
    #[inline(always)]
    pub fn resolve(&self, key: u128, hop: u16) -> u32 {
        if hop & LIST == 0 {
            return u32::from(hop);
        }
        let list = &self.0[usize::from(hop ^ LIST)];
        let behind = list.partition_point(|(start, _)| *start <= key as u64);
        u32::from(list[behind - 1].1)
    }

    pub fn is_list(hop: u16) -> bool {
        hop & LIST != 0
    }

    pub fn bytes(&self) -> usize {
        let lists = self.0.iter().map(|list| bytes_of(list));
        lists.sum::<usize>() + bytes_of(&self.0)
    }
}
