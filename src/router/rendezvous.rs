//! Weighted rendezvous hashing: every node ranks all nodes for a key in the same way, without talking.
//!
//! Each node draws a number for the key, exponentially distributed and divided by its weight; the
//! lowest draw is home. A node therefore gets keys in proportion to its weight, and one that comes or
//! goes moves no keys but its own (Thaler and Ravishankar, "Using name-based mappings to increase hit
//! rates", 1998). The logarithm is taken in integers: floating-point libraries differ in the last bit,
//! and nodes on different machines must not.

use std::cmp::Ordering;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::domain::{NodeId, TenantId};

/// What a session is placed by: the hash of a tenant and of whatever its clients are told apart by
/// (the token's `sub`, a claim, or the token's own hash). The same on every node and in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AffinityKey(u64);

impl AffinityKey {
    /// The key of a value within a tenant.
    pub fn new(tenant: &TenantId, value: &[u8]) -> Self {
        // A tenant's name contains no NUL, so no two pairs give the same bytes.
        Self(xxh3_64(&[tenant.as_str().as_bytes(), b"\0", value].concat()))
    }
}

/// The node where a key belongs. Nodes of weight 0 take none; `None` where no node takes any.
///
/// The order of `nodes` does not matter; each is to be there once.
pub fn home<'n>(key: AffinityKey, nodes: impl IntoIterator<Item = (&'n NodeId, u32)>) -> Option<&'n NodeId> {
    draws(key, nodes).min_by(Draw::order).map(|draw| draw.node)
}

/// All nodes that take keys, the home first, then where the key belongs without the ones before.
pub fn ranked<'n>(key: AffinityKey, nodes: impl IntoIterator<Item = (&'n NodeId, u32)>) -> Vec<&'n NodeId> {
    let mut draws: Vec<_> = draws(key, nodes).collect();
    draws.sort_unstable_by(Draw::order);
    draws.into_iter().map(|draw| draw.node).collect()
}

fn draws<'n>(
    key: AffinityKey,
    nodes: impl IntoIterator<Item = (&'n NodeId, u32)>,
) -> impl Iterator<Item = Draw<'n>> {
    let takes_keys = nodes.into_iter().filter(|(_, weight)| *weight > 0);
    takes_keys.map(move |(node, weight)| {
        let hash = xxh3_64_with_seed(&key.0.to_be_bytes(), xxh3_64(node.as_str().as_bytes()));
        Draw { node, weight, hash, cost: minus_log2(hash) }
    })
}

/// What a node drew for a key.
struct Draw<'n> {
    node: &'n NodeId,
    weight: u32,
    hash: u64,
    /// Exponentially distributed; to be divided by the weight.
    cost: u64,
}

impl Draw<'_> {
    /// Lowest `cost / weight` first, compared without dividing. The cost is coarser than the hash,
    /// which decides between equal ones; the name decides should even the hashes be equal.
    fn order(a: &Self, b: &Self) -> Ordering {
        let (of_a, of_b) =
            (u128::from(a.cost) * u128::from(b.weight), u128::from(b.cost) * u128::from(a.weight));
        of_a.cmp(&of_b).then(b.hash.cmp(&a.hash)).then_with(|| a.node.cmp(b.node))
    }
}

/// Binary digits after the point of [`minus_log2`].
const FRACTION: u32 = 32;

/// −log2(hash / 2^64) in fixed point: of a uniform hash, exponentially distributed.
fn minus_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    // In [1, 2), with 63 digits after the point. Squaring doubles the logarithm, so each time the
    // square reaches 2 the next digit of the logarithm is a one.
    let mut mantissa = hash << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let digit = square >> 127;
        mantissa = (square >> (63 + digit)) as u64;
        fraction = fraction << 1 | digit as u64;
    }
    (u64::from(zeros + 1) << FRACTION) - fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId::parse(&format!("node-{number}")).unwrap()
    }

    fn key(number: usize) -> AffinityKey {
        AffinityKey::new(&TenantId::parse("demo").unwrap(), format!("user-{number}").as_bytes())
    }

    fn weighted<'n>(nodes: &'n [NodeId], weights: &[u32]) -> Vec<(&'n NodeId, u32)> {
        nodes.iter().zip(weights.iter().copied()).collect()
    }

    /// These values are a contract between the nodes of a cluster, old and new: never change them.
    #[test]
    fn the_placement_is_pinned() {
        let nodes: Vec<_> = (0..5).map(node).collect();
        let homes = |weights| -> String {
            let home = |n| home(key(n), weighted(&nodes, weights)).unwrap().as_str();
            (0..20).map(|n| home(n).trim_start_matches("node-")).collect()
        };
        let pinned = (key(0), homes(&[1; 5]), homes(&[1, 1, 2, 3, 10]));
        let expected = (
            AffinityKey(4_814_533_494_050_993_876),
            "32112103423443132204".into(),
            "42142444424443142244".into(),
        );
        assert_eq!(pinned, expected);
    }

    #[test]
    fn the_logarithm_is_right() {
        for hash in [1, 2, 3, 1 << 20, u64::MAX / 3, 1 << 63, u64::MAX - 1, u64::MAX, 0x1234_5678_9ABC_DEF0] {
            let exact = 64.0 - (hash as f64).log2();
            let ours = minus_log2(hash) as f64 / (1_u64 << FRACTION) as f64;
            assert!((exact - ours).abs() < 1e-8, "{hash:#x}: {exact} {ours}");
        }
        assert_eq!(minus_log2(0), 64 << FRACTION);
        assert_eq!(minus_log2(1 << 63), 1 << FRACTION);
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let nodes: Vec<_> = (0..4).map(node).collect();
        let weights = [1, 2, 3, 4];
        let mut counts = [0_usize; 4];
        for n in 0..20_000 {
            let home = home(key(n), weighted(&nodes, &weights)).unwrap();
            counts[nodes.iter().position(|node| node == home).unwrap()] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let expected = 2_000 * weight as usize;
            assert!(count.abs_diff(expected) < 250, "{counts:?}");
        }
    }

    #[test]
    fn nobody_is_home_where_nobody_takes_keys() {
        let nodes = [node(0)];
        assert_eq!(home(key(1), []), None);
        assert_eq!(home(key(1), [(&nodes[0], 0)]), None);
        assert!(ranked(key(1), [(&nodes[0], 0)]).is_empty());
    }

    proptest! {
        #[test]
        fn a_node_that_goes_moves_only_its_own_keys(
            weights in prop::collection::vec(1_u32..1_000, 2..12),
            gone: prop::sample::Index,
            first in 0_usize..1_000_000,
        ) {
            let nodes: Vec<_> = (0..weights.len()).map(node).collect();
            let gone = &nodes[gone.index(nodes.len())];
            for n in first..first + 50 {
                let all = ranked(key(n), weighted(&nodes, &weights));
                let left = ranked(key(n), weighted(&nodes, &weights).into_iter().filter(|(node, _)| *node != gone));
                let expected: Vec<_> = all.iter().copied().filter(|node| *node != gone).collect();
                prop_assert_eq!(left, expected);
            }
        }

        #[test]
        fn more_weight_only_draws_keys_to_the_node(
            mut weights in prop::collection::vec(1_u32..1_000, 2..12),
            grown: prop::sample::Index,
            n: usize,
        ) {
            let nodes: Vec<_> = (0..weights.len()).map(node).collect();
            let before = home(key(n), weighted(&nodes, &weights));
            let grown = grown.index(nodes.len());
            weights[grown] *= 3;
            let after = home(key(n), weighted(&nodes, &weights));
            prop_assert!(after == before || after == Some(&nodes[grown]));
        }

        #[test]
        fn home_is_the_first_in_rank_in_any_order(
            weights in prop::collection::vec(0_u32..5, 1..12),
            n: usize,
        ) {
            let nodes: Vec<_> = (0..weights.len()).map(node).collect();
            let mut listed: Vec<_> = weighted(&nodes, &weights);
            let ranks = ranked(key(n), listed.clone());
            prop_assert_eq!(home(key(n), listed.clone()), ranks.first().copied());
            prop_assert_eq!(ranks.len(), weights.iter().filter(|weight| **weight > 0).count());
            listed.reverse();
            prop_assert_eq!(ranked(key(n), listed), ranks);
        }
    }
}
