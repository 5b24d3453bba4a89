//! The node's pool of pod addresses: which address comes next. Which ones are taken is the
//! business of [`crate::state`].

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The addresses of one node's block.
///
/// The first address belongs to the node itself and the last one is the broadcast address;
/// neither is ever given to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    network: String,
    block: Ipv4Net,
}

/// A block too small for a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod block {0} is too small: it must be /30 or larger")]
pub struct TooSmall(Ipv4Net);

impl Pool {
    /// A pool for the pods of `network` with the addresses of `block`.
    ///
    /// # Errors
    /// If the block is smaller than /30, so that hardly an address would be left.
    pub fn new(network: impl Into<String>, block: Ipv4Net) -> Result<Pool, TooSmall> {
        if block.prefix_len() > 30 {
            return Err(TooSmall(block));
        }
        Ok(Pool {
            network: network.into(),
            block: block.trunc(),
        })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The block, without host bits.
    pub fn block(&self) -> Ipv4Net {
        self.block
    }

    /// How many pods the pool has addresses for.
    pub fn size(&self) -> u32 {
        self.last() - self.first() + 1
    }

    /// Why `address` is never given to a pod, or `None`.
    pub fn problem(&self, address: Ipv4Addr) -> Option<&'static str> {
        if !self.block.contains(&address) {
            Some("is not in the block")
        } else if address == self.block.network() {
            Some("is the node's own address")
        } else if address == self.block.broadcast() {
            Some("is the block's broadcast address")
        } else {
            None
        }
    }

    /// All addresses once, from the one after `last_given` on and round (next fit).
    ///
    /// An address that was just released comes last, so that what peers remember of the former
    /// pod has time to fade.
    pub fn candidates(
        &self,
        last_given: Option<Ipv4Addr>,
    ) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = (self.first(), self.last());
        let start = match last_given.map(u32::from) {
            Some(given) if (first..last).contains(&given) => given + 1,
            _ => first,
        };
        (start..=last).chain(first..start).map(Ipv4Addr::from)
    }

    fn first(&self) -> u32 {
        u32::from(self.block.network()) + 1
    }

    fn last(&self) -> u32 {
        u32::from(self.block.broadcast()) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(block: &str) -> Pool {
        Pool::new("pods", block.parse().unwrap()).unwrap()
    }

    #[test]
    fn ends_of_the_block_are_never_given() {
        let pool = pool("10.0.0.0/29");
        let all: Vec<_> = pool.candidates(None).map(|a| a.octets()[3]).collect();
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
        assert_eq!(pool.size(), 6);
        for address in ["10.0.0.0", "10.0.0.7", "10.0.0.8", "9.255.255.255"] {
            assert!(
                pool.problem(address.parse().unwrap()).is_some(),
                "{address}"
            );
        }
    }

    #[test]
    fn candidates_go_round_from_the_last_given() {
        let pool = pool("10.0.0.0/29");
        let from = |last: &str| -> Vec<u8> {
            pool.candidates(Some(last.parse().unwrap()))
                .map(|a| a.octets()[3])
                .collect()
        };
        assert_eq!(from("10.0.0.3"), [4, 5, 6, 1, 2, 3]);
        assert_eq!(from("10.0.0.6"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(from("10.0.0.7"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(from("192.168.0.1"), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn smallest_and_largest_blocks() {
        assert_eq!(pool("10.0.0.4/30").size(), 2);
        assert!(Pool::new("pods", "10.0.0.4/31".parse().unwrap()).is_err());
        let all = pool("0.0.0.0/0");
        assert_eq!(all.size(), u32::MAX - 1);
        assert_eq!(
            all.candidates(Some(Ipv4Addr::new(255, 255, 255, 254)))
                .next(),
            Some(Ipv4Addr::new(0, 0, 0, 1))
        );
    }
}
