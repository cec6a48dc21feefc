//! Rate limits: a token bucket for each kind of request and each user, network or account.
//!
//! The edge checks users and networks; a handler checks what only it knows, such as the account of a
//! login. The number of buckets is limited: those from which the least was taken are evicted.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Login, per network.
    Login,
    /// Wrong passwords, per account and network or device.
    WrongPassword,
    /// Wrong passwords, per account, from all networks from which it was never used.
    WrongPasswordAccount,
    /// Registration, per network.
    Register,
    /// Sending events, per user.
    Send,
    /// To-device messages, per user.
    ToDevice,
    /// One-time keys for a server that shares no room with the user, per user and server.
    ClaimKeys,
    /// One-time keys for all such servers, per user.
    ClaimKeysByAll,
    /// One-time keys for a local user, per user and device.
    ClaimKeysOfDevice,
    /// Invitations of local users by users of other servers, per user who invites.
    Invite,
    /// The same, per server.
    InviteFromServer,
    /// Requests that cause requests to other servers, per network and user.
    RemoteLookup,
    /// Reports to the owner of the server, per user.
    Report,
    /// Searches in the user directory, per user.
    UserSearch,
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
            Self::WrongPassword => (10.0, 0.05),
            Self::WrongPasswordAccount => (100.0, 100.0 / 3600.0),
            Self::Register => (5.0, 0.05),
            Self::Send => (60.0, 5.0),
            // Clients split the room keys for a large room into many requests.
            Self::ToDevice => (300.0, 10.0),
            // A device has some 50 keys, and uploads new ones only when it is online.
            Self::ClaimKeys => (5.0, 0.005),
            Self::ClaimKeysByAll => (30.0, 0.02),
            // Each device of the claimer needs one, and another one if its session is broken.
            Self::ClaimKeysOfDevice => (10.0, 0.005),
            // A space with its rooms, or all of a family.
            Self::Invite => (30.0, 0.02),
            Self::InviteFromServer => (100.0, 0.5),
            // A server that does not answer keeps a request waiting for some ten seconds.
            Self::RemoteLookup => (60.0, 2.0),
            // A person writes the reason.
            Self::Report => (20.0, 0.02),
            // Clients search while a name is typed.
            Self::UserSearch => (30.0, 1.0),
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

/// Each bucket is kept as the time when it will be full, in milliseconds since the epoch.
#[derive(Debug)]
pub struct Rates {
    clock: Clock,
    max_buckets: usize,
    hasher: RandomState,
    full_at: Mutex<HashMap<u64, f64>>,
}

/// One token of a bucket.
struct Token {
    /// A keyed hash: nobody can choose to share another's bucket, and the size of an entry does not depend on
    /// the request.
    key: u64,
    /// How long it takes until there is another one, and until the empty bucket is full.
    token_ms: f64,
    burst_ms: f64,
}

impl Token {
    /// When the bucket will be full after this token is taken from it.
    fn next_full_at(&self, full_at: Option<f64>, now: f64) -> f64 {
        // If the clock was set back, it seems to be full too late.
        let valid = full_at.filter(|at| (now..=now + self.burst_ms).contains(at));
        valid.unwrap_or(now) + self.token_ms
    }

    /// How long to wait for the token, in milliseconds.
    fn wait(&self, full_at: Option<f64>, now: f64) -> f64 {
        // The sum of many tokens may be a little too much.
        const TOLERANCE_MS: f64 = 0.01;
        let wait = self.next_full_at(full_at, now) - (now + self.burst_ms);
        if wait > TOLERANCE_MS { wait } else { 0.0 }
    }
}

impl Rates {
    /// With `max_buckets` 0 nothing is limited.
    pub fn new(max_buckets: usize, clock: Clock) -> Self {
        Self {
            clock,
            max_buckets,
            hasher: RandomState::new(),
            full_at: Mutex::default(),
        }
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        let full_at = self.full_at.lock();
        full_at.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes one token from the bucket of `key`.
    pub fn check(&self, kind: Kind, key: impl Hash) -> Result<(), Limited> {
        self.take(&[self.token(kind, key, 1.0)])
    }

    /// Takes one token from the bucket of `key` of each network of `address`: an IPv4 address; or the /64, the
    /// /56 and the /48 of an IPv6 address, of which the larger ones have larger buckets.
    pub fn check_network(
        &self,
        kind: Kind,
        address: IpAddr,
        key: impl Hash,
    ) -> Result<(), Limited> {
        self.take(&self.network_tokens(kind, address, key))
    }

    /// Gives back what [`check_network`](Self::check_network) took.
    pub fn refund_network(&self, kind: Kind, address: IpAddr, key: impl Hash) {
        self.give_back(&self.network_tokens(kind, address, key));
    }

    /// Gives back what [`check`](Self::check) took.
    pub fn refund(&self, kind: Kind, key: impl Hash) {
        self.give_back(&[self.token(kind, key, 1.0)]);
    }

    fn token(&self, kind: Kind, key: impl Hash, scale: f64) -> Token {
        let Bucket { burst, per_second } = kind.bucket();
        let token_ms = 1000.0 / (per_second * scale);
        Token {
            key: self.hasher.hash_one((kind, key)),
            token_ms,
            burst_ms: burst * scale * token_ms,
        }
    }

    fn network_tokens(&self, kind: Kind, address: IpAddr, key: impl Hash) -> Vec<Token> {
        let of_network = |(scale, network)| self.token(kind, (network, &key), scale);
        match address.to_canonical() {
            IpAddr::V4(address) => vec![of_network((1.0, IpAddr::V4(address)))],
            IpAddr::V6(address) => {
                let levels = [(1.0, 64), (4.0, 56), (16.0, 48)];
                let networks = levels.map(|(scale, bits)| (scale, (prefix(address, bits)).into()));
                networks.into_iter().map(of_network).collect()
            }
        }
    }

    /// Takes all tokens or none.
    fn take(&self, tokens: &[Token]) -> Result<(), Limited> {
        if self.max_buckets == 0 {
            return Ok(());
        }
        let now = self.clock.now_ms() as f64;
        let mut full_at = self.lock();
        let waits = tokens
            .iter()
            .map(|token| token.wait(full_at.get(&token.key).copied(), now));
        let wait = waits.fold(0.0, f64::max);
        if wait > 0.0 {
            return Err(Limited {
                retry_after: Duration::from_secs_f64((wait / 1000.0).ceil()),
            });
        }
        for token in tokens {
            if full_at.len() >= self.max_buckets && !full_at.contains_key(&token.key) {
                evict_fullest(&mut full_at, now);
            }
            let taken = token.next_full_at(full_at.get(&token.key).copied(), now);
            full_at.insert(token.key, taken);
        }
        Ok(())
    }

    fn give_back(&self, tokens: &[Token]) {
        let mut full_at = self.lock();
        for token in tokens {
            if let Some(at) = full_at.get_mut(&token.key) {
                *at -= token.token_ms;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, f64>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the buckets that are full. If these are not half of all, it evicts those that will be full soonest:
/// the most used are kept. So the cost of the search is spread over as many new buckets.
fn evict_fullest(full_at: &mut HashMap<u64, f64>, now: f64) {
    let mut times: Vec<f64> = full_at.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable_by(middle, f64::total_cmp);
    let median = *median;
    let mut left = middle.max(1);
    full_at.retain(|_, at| {
        let is_evicted = *at <= now || (left > 0 && *at <= median);
        left = left.saturating_sub(usize::from(is_evicted));
        !is_evicted
    });
}

/// The network that one home has: an IPv4 address, or the /64 of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    network_of(address, 64)
}

/// The network that one provider gives to one customer at most: an IPv4 address, or the /48 of an IPv6
/// address. It has one share of what all have together.
pub fn site(address: IpAddr) -> IpAddr {
    network_of(address, 48)
}

fn network_of(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(prefix(address, bits)),
    }
}

fn prefix(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits)))
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::{Kind, Rates, network, site};
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
        assert_eq!(allowed(&rates, Kind::WrongPassword, "a"), 10);
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
        assert!(rates.lock().len() <= 100);
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn larger_networks_of_ipv6_have_larger_buckets() {
        let (rates, _clock) = rates(100_000);
        let is_allowed = |a: u32, b: u32| {
            let address = ip(&format!("2001:db8:1:{a:x}{b:02x}::1"));
            rates.check_network(Kind::Login, address, ()).is_ok()
        };
        let of = |networks: &mut dyn Iterator<Item = (u32, u32)>| {
            networks.filter(|(a, b)| is_allowed(*a, *b)).count()
        };
        assert_eq!(of(&mut (0..100).map(|_| (1, 1))), 20);
        assert_eq!(of(&mut (0..100).map(|n| (1, 2 + n))), 4 * 20 - 20);
        assert_eq!(
            of(&mut (0..1000).map(|n| (2 + n % 200, n / 200))),
            16 * 20 - 80
        );
        let other = ip("2001:db8:2::1");
        assert!(rates.check_network(Kind::Login, other, ()).is_ok());
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (rates, _clock) = rates(100);
        let address = ip("2001:db8::1");
        for _ in 0..100 {
            rates.check_network(Kind::Login, address, "a").unwrap();
            rates.refund_network(Kind::Login, address, "a");
            rates.check(Kind::Register, "a").unwrap();
            rates.refund(Kind::Register, "a");
        }
        assert_eq!(allowed(&rates, Kind::Register, "a"), 5);
    }

    #[test]
    fn full_buckets_are_evicted_before_any_other() {
        let (rates, clock) = rates(10);
        assert_eq!(allowed(&rates, Kind::Register, "a"), 5);
        for n in 0..8 {
            rates.check(Kind::Other, n).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        rates.check(Kind::Register, "b").unwrap();
        rates.check(Kind::Register, "c").unwrap();
        assert_eq!(rates.lock().len(), 3);
        rates.check(Kind::Register, "a").unwrap_err();
    }

    #[test]
    fn the_network_of_an_ipv6_address_is_its_64() {
        assert_eq!(site(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1::"));
        let of = |text: &str| network(ip(text)).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
