//! Rate limits: a token bucket for each kind of request and each user, network or account.
//!
//! The edge checks users and networks; a handler checks what only it knows, such as the account of a
//! login. The number of buckets is limited: those that were used least recently are evicted.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Login, per network.
    Login,
    /// Login, per account.
    LoginAccount,
    /// Registration, per network.
    Register,
    /// Sending events, per user.
    Send,
    /// To-device messages, per user.
    ToDevice,
    /// One-time keys for servers that share no room with the user, per user.
    ClaimKeys,
    /// Unauthenticated requests that cause requests to other servers, per network.
    RemoteLookup,
    /// All other endpoints that the specification marks as rate limited, per user or network.
    Other,
}

/// The parameters of a kind.
struct Bucket {
    burst: f64,
    per_second: f64,
}

impl Kind {
    /// Whether the network counts even when the user is known.
    pub fn is_per_network(self) -> bool {
        matches!(self, Self::Login | Self::Register | Self::RemoteLookup)
    }

    /// High enough for a family behind one address, low enough against guessing passwords and runaway
    /// programs.
    const fn bucket(self) -> Bucket {
        let (burst, per_second) = match self {
            Self::Login => (20.0, 0.2),
            Self::LoginAccount => (10.0, 0.05),
            Self::Register => (5.0, 0.05),
            Self::Send => (60.0, 5.0),
            // Clients split the room keys for a large room into many requests.
            Self::ToDevice => (300.0, 10.0),
            // A device has some 50 keys, and uploads new ones only when it is online.
            Self::ClaimKeys => (20.0, 0.01),
            // A server that does not answer keeps a request waiting for some ten seconds.
            Self::RemoteLookup => (60.0, 2.0),
            Self::Other => (120.0, 10.0),
        };
        Bucket { burst, per_second }
    }
}

/// A request above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {} seconds", retry_after.as_secs())]
pub struct Limited {
    /// Whole seconds, at least one.
    pub retry_after: Duration,
}

#[derive(Debug)]
pub struct Rates {
    clock: Clock,
    max_buckets: usize,
    hasher: RandomState,
    levels: Mutex<HashMap<u64, Level>>,
}

/// A bucket, as of `at_ms`.
#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at_ms: u64,
}

impl Rates {
    /// With `max_buckets` 0 nothing is limited.
    pub fn new(max_buckets: usize, clock: Clock) -> Self {
        Self {
            clock,
            max_buckets,
            hasher: RandomState::new(),
            levels: Mutex::default(),
        }
    }

    /// Takes one token from the bucket of `key`.
    pub fn check(&self, kind: Kind, key: impl Hash) -> Result<(), Limited> {
        if self.max_buckets == 0 {
            return Ok(());
        }
        let Bucket { burst, per_second } = kind.bucket();
        let now = self.clock.now_ms();
        // A keyed hash: nobody can choose to share another's bucket, and the size of an entry does not
        // depend on the request.
        let key = self.hasher.hash_one((kind, key));
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.len() >= self.max_buckets && !levels.contains_key(&key) {
            evict_least_recent(&mut levels);
        }
        let level = levels.entry(key).or_insert(Level {
            tokens: burst,
            at_ms: now,
        });
        let elapsed = now.saturating_sub(level.at_ms) as f64 / 1000.0;
        level.tokens = (level.tokens + elapsed * per_second).min(burst);
        level.at_ms = now;
        if level.tokens >= 1.0 {
            level.tokens -= 1.0;
            return Ok(());
        }
        let seconds = ((1.0 - level.tokens) / per_second).ceil().max(1.0);
        Err(Limited {
            retry_after: Duration::from_secs_f64(seconds),
        })
    }
}

/// Evicts the half that was used least recently, which spreads the cost of the search over as many new
/// buckets.
fn evict_least_recent(levels: &mut HashMap<u64, Level>) {
    let mut times: Vec<u64> = levels.values().map(|level| level.at_ms).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    let mut left = middle.max(1);
    levels.retain(|_, level| {
        let is_evicted = left > 0 && level.at_ms <= median;
        left -= usize::from(is_evicted);
        !is_evicted
    });
}

/// The network that one home has: an IPv4 address, or the /64 of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::{Kind, Rates, network};
    use crate::clock::Clock;

    fn rates(most: usize) -> (Rates, Clock) {
        let clock = Clock::manual(1_000_000);
        (Rates::new(most, clock.clone()), clock)
    }

    fn allowed(rates: &Rates, kind: Kind, who: &str) -> usize {
        (0..1000)
            .take_while(|_| rates.check(kind, who).is_ok())
            .count()
    }

    #[test]
    fn after_a_burst_one_more_is_allowed_at_retry_after() {
        let (rates, clock) = rates(100);
        assert_eq!(allowed(&rates, Kind::Login, "a"), 20);
        let limited = rates.check(Kind::Login, "a").unwrap_err();
        assert_eq!(limited.retry_after, Duration::from_secs(5));
        clock.advance(Duration::from_secs(4));
        rates.check(Kind::Login, "a").unwrap_err();
        clock.advance(Duration::from_secs(1));
        assert_eq!(allowed(&rates, Kind::Login, "a"), 1);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_burst() {
        let (rates, clock) = rates(100);
        rates.check(Kind::Register, "a").unwrap();
        clock.advance(Duration::from_secs(1_000_000));
        assert_eq!(allowed(&rates, Kind::Register, "a"), 5);
    }

    #[test]
    fn kinds_and_clients_do_not_share_a_bucket() {
        let (rates, _clock) = rates(100);
        assert_eq!(allowed(&rates, Kind::Login, "a"), 20);
        assert_eq!(allowed(&rates, Kind::Login, "b"), 20);
        assert_eq!(allowed(&rates, Kind::LoginAccount, "a"), 10);
    }

    #[test]
    fn a_busy_bucket_is_kept_while_thousands_of_others_are_evicted() {
        let (rates, clock) = rates(100);
        assert_eq!(allowed(&rates, Kind::Register, "busy"), 5);
        for other in 0..10_000 {
            rates.check(Kind::Register, other).unwrap();
            clock.advance(Duration::from_micros(1));
            if other % 10 == 0 {
                clock.advance(Duration::from_millis(1));
                rates.check(Kind::Register, "busy").unwrap_err();
            }
        }
        assert!(rates.levels.lock().unwrap().len() <= 100);
    }

    #[test]
    fn a_clock_that_is_set_back_blocks_nobody() {
        let clock = Clock::manual(5_000_000);
        let mut rates = Rates::new(10, clock);
        rates.check(Kind::Login, "a").unwrap();
        rates.clock = Clock::manual(1_000);
        rates.check(Kind::Login, "a").unwrap();
    }

    #[test]
    fn with_a_capacity_of_0_nothing_is_limited() {
        let (rates, _clock) = rates(0);
        assert_eq!(allowed(&rates, Kind::Login, "a"), 1000);
    }

    #[test]
    fn the_network_of_an_ipv6_address_is_its_64() {
        let of = |text: &str| network(text.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
