//! How fast connections may come: a token bucket for the node and one for each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Refused;
use crate::config::{AcceptConfig, Network};
use crate::telemetry::Refusal;

/// Addresses that are told apart at a time; some 4 MB. Each is forgotten within a second after its last
/// connection. Beyond that only the node's rate holds.
const ADDRESSES: usize = 65_536;
/// Between two looks for addresses to forget, while there is no room for more.
const SWEEP: Duration = Duration::from_secs(1);
/// The farthest that anybody is told to come again.
const FARTHEST: Duration = Duration::from_secs(60);

/// Takes connections, or says when they may come again. Pure: its caller says what time it is.
#[derive(Debug)]
pub(super) struct Rates {
    node: Option<Rate>,
    per_address: Option<Rate>,
    exempt: Vec<Network>,
    all: Bucket,
    /// By address; an IPv6 address counts as its /64, which one customer has to itself.
    addresses: HashMap<IpAddr, Bucket>,
    swept: Instant,
}

/// So many in a second, and a second's worth at once after a pause.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_s: u32,
}

/// A token bucket, kept as times (the generic cell rate algorithm of ITU-T I.371).
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the bucket will be full again.
    full: Instant,
    /// Up to when places are promised to those who were refused.
    promised: Instant,
}

impl Rate {
    fn new(per_s: u32) -> Option<Self> {
        (per_s > 0).then_some(Self { per_s })
    }

    /// The time that one connection takes.
    fn each(self) -> Duration {
        Duration::from_secs(1) / self.per_s
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { full: now, promised: now }
    }

    /// Takes one, or says when there is room.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        const BURST: Duration = Duration::from_secs(1);
        let full = self.full.max(now) + rate.each();
        if full <= now + BURST {
            self.full = full;
            return Ok(());
        }
        // Whoever is refused is promised a place behind those refused before, so that they come back at
        // the pace that can be taken, and a second or so later, in whole seconds.
        self.promised = (self.promised.max(now) + rate.each()).min(now + FARTHEST);
        let seconds = self.promised.duration_since(now).as_secs();
        Err(Duration::from_secs(seconds + rand::random_range(1..=5)))
    }
}

impl Rates {
    pub(super) fn new(accept: &AcceptConfig) -> Self {
        let now = Instant::now();
        Self {
            node: Rate::new(accept.per_s),
            per_address: Rate::new(accept.per_s_per_address),
            exempt: accept.exempt.clone(),
            all: Bucket::new(now),
            addresses: HashMap::new(),
            swept: now,
        }
    }

    /// Takes one connection. The address goes first: what it has too many of costs the others nothing.
    pub(super) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Refused> {
        let address = address.to_canonical();
        if let Some(rate) = self.per_address
            && !self.exempt.iter().any(|network| network.contains(address))
            && let Some(bucket) = self.bucket(of_customer(address), now)
        {
            let refused = |retry_after| Refused { reason: Refusal::RateAddress, retry_after };
            bucket.take(rate, now).map_err(refused)?;
        }
        if let Some(rate) = self.node {
            let refused = |retry_after| Refused { reason: Refusal::RateNode, retry_after };
            self.all.take(rate, now).map_err(refused)?;
        }
        Ok(())
    }

    /// The bucket of an address; `None` while too many are known.
    fn bucket(&mut self, address: IpAddr, now: Instant) -> Option<&mut Bucket> {
        if self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&address) {
            if now < self.swept + SWEEP {
                return None;
            }
            self.swept = now;
            // A bucket that is full again is as good as a new one.
            self.addresses.retain(|_, bucket| bucket.full > now);
            if self.addresses.len() >= ADDRESSES {
                return None;
            }
        }
        Some(self.addresses.entry(address).or_insert_with(|| Bucket::new(now)))
    }
}

fn of_customer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_s: u32, per_s_per_address: u32) -> Rates {
        let exempt = vec!["10.0.0.0/8".parse().unwrap()];
        Rates::new(&AcceptConfig { per_s, per_s_per_address, exempt })
    }

    fn taken(rates: &mut Rates, address: &str, tries: usize, now: Instant) -> usize {
        let address = address.parse().unwrap();
        (0..tries).filter(|_| rates.take(address, now).is_ok()).count()
    }

    #[test]
    fn a_second_s_worth_at_once_and_then_the_rate() {
        let (mut rates, now) = (rates(0, 50), Instant::now());
        assert_eq!(taken(&mut rates, "192.0.2.1", 80, now), 50);
        assert_eq!(taken(&mut rates, "192.0.2.1", 80, now + Duration::from_millis(100)), 5);
        assert_eq!(taken(&mut rates, "192.0.2.2", 80, now), 50, "another address has its own");
        assert_eq!(taken(&mut rates, "192.0.2.1", 80, now + Duration::from_secs(9)), 50);
    }

    #[test]
    fn what_one_address_has_too_many_of_costs_the_node_nothing() {
        let (mut rates, now) = (rates(60, 50), Instant::now());
        assert_eq!(taken(&mut rates, "192.0.2.1", 1_000, now), 50);
        assert_eq!(taken(&mut rates, "192.0.2.2", 1_000, now), 10);
        let refused = rates.take("192.0.2.3".parse().unwrap(), now).unwrap_err();
        assert_eq!(refused.reason, Refusal::RateNode);
        let refused = rates.take("192.0.2.1".parse().unwrap(), now).unwrap_err();
        assert_eq!(refused.reason, Refusal::RateAddress);
    }

    #[test]
    fn listed_networks_are_held_to_the_node_s_rate_alone() {
        let (mut rates, now) = (rates(70, 50), Instant::now());
        assert_eq!(taken(&mut rates, "10.1.2.3", 100, now), 70);
        assert_eq!(taken(&mut rates, "::ffff:10.1.2.3", 100, now), 0, "the same address");
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let (mut rates, now) = (rates(0, 50), Instant::now());
        assert_eq!(taken(&mut rates, "2001:db8::1", 30, now), 30);
        assert_eq!(taken(&mut rates, "2001:db8::ffff:2", 30, now), 20);
        assert_eq!(taken(&mut rates, "2001:db8:0:1::1", 30, now), 30);
    }

    #[test]
    fn those_refused_are_told_to_come_at_the_pace_that_can_be_taken() {
        let (mut rates, now) = (rates(100, 0), Instant::now());
        let address = "192.0.2.1".parse().unwrap();
        taken(&mut rates, "192.0.2.1", 100, now);
        let pauses: Vec<u64> =
            (0..1_000).map(|_| rates.take(address, now).unwrap_err().retry_after.as_secs()).collect();
        assert!(pauses[..100].iter().all(|pause| (1..=6).contains(pause)), "{pauses:?}");
        assert!(pauses[900..].iter().all(|pause| (10..=15).contains(pause)), "{pauses:?}");
        for _ in 0..20_000 {
            assert!(rates.take(address, now).unwrap_err().retry_after.as_secs() <= 65);
        }
    }

    #[test]
    fn addresses_are_bounded_and_forgotten() {
        let (mut rates, now) = (rates(0, 1), Instant::now());
        rates.swept = now;
        let address = |n: usize| IpAddr::from(std::net::Ipv4Addr::from_bits(n as u32));
        for n in 0..ADDRESSES {
            rates.take(address(n), now).unwrap();
        }
        for _ in 0..3 {
            rates.take(address(ADDRESSES), now).unwrap();
        }
        assert_eq!(rates.addresses.len(), ADDRESSES, "no room: this one is not told apart");
        let later = now + Duration::from_secs(2);
        rates.take(address(ADDRESSES), later).unwrap();
        rates.take(address(ADDRESSES), later).unwrap_err();
        assert_eq!(rates.addresses.len(), 1);
    }
}
