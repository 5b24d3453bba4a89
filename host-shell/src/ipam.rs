//! The node's pools of pod addresses: which address comes next. Which ones are taken is the
//! business of [`crate::state`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The pools of one node in one network: at most one of each IP version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    network: String,
    pools: Vec<Pool>,
}

/// The addresses of one node's block.
///
/// The first address belongs to the node itself (of an IPv6 block it is the routers' anycast
/// address, RFC 4291 section 2.6.1), and the last one of an IPv4 block is the broadcast address;
/// neither is ever given to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    network: String,
    block: IpNet,
}

/// A block too small for a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod block {block} is too small: it must be /{} or larger", longest(.block))]
pub struct TooSmall {
    /// The block.
    block: IpNet,
}

/// The longest prefix that leaves room for pods.
fn longest(block: &IpNet) -> u8 {
    block.max_prefix_len() - 2
}

impl Pools {
    /// Pools for the pods of `network` with the addresses of these blocks. Of several blocks of
    /// one IP version the first is used.
    ///
    /// # Errors
    /// If a block is smaller than /30 or /126, so that hardly an address would be left.
    pub fn new(network: impl Into<String>, blocks: &[IpNet]) -> Result<Pools, TooSmall> {
        let network = network.into();
        let mut pools: Vec<Pool> = Vec::new();
        for block in blocks {
            let pool = Pool::new(&network, *block)?;
            if !pools.iter().any(|other| other.is_ipv4() == pool.is_ipv4()) {
                pools.push(pool);
            }
        }
        Ok(Pools { network, pools })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Each pool.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    /// The pool of an address's IP version.
    pub fn like(&self, address: IpAddr) -> Option<&Pool> {
        self.iter().find(|pool| pool.is_ipv4() == address.is_ipv4())
    }
}

impl Pool {
    fn new(network: &str, block: IpNet) -> Result<Pool, TooSmall> {
        if block.prefix_len() > longest(&block) {
            return Err(TooSmall { block });
        }
        Ok(Pool {
            network: network.to_owned(),
            block: block.trunc(),
        })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The block, without host bits.
    pub fn block(&self) -> IpNet {
        self.block
    }

    /// Whether its addresses are IPv4; they are IPv6 otherwise.
    pub fn is_ipv4(&self) -> bool {
        self.block.addr().is_ipv4()
    }

    /// How many pods the pool has addresses for.
    pub fn size(&self) -> u128 {
        (self.last() - self.first()).saturating_add(1)
    }

    /// Why `address` is never given to a pod, or `None`.
    pub fn problem(&self, address: IpAddr) -> Option<&'static str> {
        if !self.block.contains(&address) {
            Some("is not in the block")
        } else if address == self.block.network() {
            Some("is the node's own address")
        } else if address.is_ipv4() && address == self.block.broadcast() {
            Some("is the block's broadcast address")
        } else {
            None
        }
    }

    /// All addresses once, from the one after `last_given` on and round (next fit).
    ///
    /// An address that was just released comes last, so that what peers remember of the former
    /// pod has time to fade.
    pub fn candidates(&self, last_given: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last, is_ipv4) = (self.first(), self.last(), self.is_ipv4());
        let given = last_given.filter(|given| given.is_ipv4() == is_ipv4);
        let start = match given.map(number) {
            Some(given) if (first..last).contains(&given) => given + 1,
            _ => first,
        };
        let all = (start..=last).chain(first..start);
        all.filter_map(move |number| match is_ipv4 {
            true => Some(Ipv4Addr::from(u32::try_from(number).ok()?).into()),
            false => Some(Ipv6Addr::from(number).into()),
        })
    }

    fn first(&self) -> u128 {
        number(self.block.network()) + 1
    }

    fn last(&self) -> u128 {
        number(self.block.broadcast()) - u128::from(self.is_ipv4())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(block: &str) -> Pool {
        Pool::new("pods", block.parse().unwrap()).unwrap()
    }

    fn last_byte(address: IpAddr) -> u8 {
        number(address).to_le_bytes()[0]
    }

    #[test]
    fn ends_of_the_block_are_never_given() {
        let pool = pool("10.0.0.0/29");
        let all: Vec<_> = pool.candidates(None).map(last_byte).collect();
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
        assert_eq!(pool.size(), 6);
        for address in [
            "10.0.0.0",
            "10.0.0.7",
            "10.0.0.8",
            "9.255.255.255",
            "fd00::1",
        ] {
            assert!(
                pool.problem(address.parse().unwrap()).is_some(),
                "{address}"
            );
        }
    }

    #[test]
    fn ipv6_has_no_broadcast_address() {
        let pool = pool("fd00::8/125");
        let all: Vec<_> = pool.candidates(None).map(last_byte).collect();
        assert_eq!(all, [9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(pool.size(), 7);
        assert_eq!(pool.problem("fd00::f".parse().unwrap()), None);
        for address in ["fd00::8", "fd00::7", "fd00::10", "10.0.0.1"] {
            assert!(
                pool.problem(address.parse().unwrap()).is_some(),
                "{address}"
            );
        }
    }

    #[test]
    fn candidates_go_round_from_the_last_given() {
        for (block, given) in [
            (
                "10.0.0.0/29",
                ["10.0.0.3", "10.0.0.6", "10.0.0.7", "192.168.0.1"],
            ),
            ("fd00::/125", ["fd00::3", "fd00::7", "fd00::8", "10.0.0.3"]),
        ] {
            let pool = pool(block);
            let from = |last: &str| -> Vec<u8> {
                pool.candidates(Some(last.parse().unwrap()))
                    .map(last_byte)
                    .collect()
            };
            let all: Vec<u8> = pool.candidates(None).map(last_byte).collect();
            let turned = [&all[3..], &all[..3]].concat();
            assert_eq!(from(given[0]), turned, "{block}");
            for last in &given[1..] {
                assert_eq!(from(last), all, "{block} from {last}");
            }
        }
    }

    #[test]
    fn smallest_and_largest_blocks() {
        assert_eq!(pool("10.0.0.4/30").size(), 2);
        assert_eq!(pool("fd00::4/126").size(), 3);
        for (block, least) in [("10.0.0.4/31", "/30"), ("fd00::/127", "/126")] {
            let error = Pool::new("pods", block.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(least), "{error}");
        }
        let all = pool("0.0.0.0/0");
        assert_eq!(all.size(), u128::from(u32::MAX) - 1);
        let next = |pool: &Pool, last: &str| pool.candidates(last.parse().ok()).next().unwrap();
        assert_eq!(next(&all, "255.255.255.254").to_string(), "0.0.0.1");
        let all = pool("::/0");
        assert_eq!(all.size(), u128::MAX);
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(next(&all, last).to_string(), "::1");
        assert_eq!(
            next(&pool("fd00::/64"), "fd00::ffff:ffff").to_string(),
            "fd00::1:0:0"
        );
    }

    #[test]
    fn a_node_has_one_pool_of_each_ip_version() {
        let blocks = ["fd00::/64", "10.0.0.0/24", "10.0.1.0/24"].map(|b| b.parse().unwrap());
        let pools = Pools::new("pods", &blocks).unwrap();
        let found: Vec<_> = pools.iter().map(|pool| pool.block().to_string()).collect();
        assert_eq!(found, ["fd00::/64", "10.0.0.0/24"]);
        let like = pools.like("10.9.9.9".parse().unwrap()).unwrap();
        assert!(like.is_ipv4());
        let only = Pools::new("pods", &blocks[1..]).unwrap();
        assert_eq!(only.like("fd00::1".parse().unwrap()), None);
    }
}
