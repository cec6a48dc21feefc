//! The slots of connections: which network gets one, and which gives way.
//!
//! 1. A network may have a part of all slots. A trusted proxy has no such limit, but each network that it
//!    names in `X-Forwarded-For` may have so many requests under way.
//! 2. What unknown senders do may have a part of all slots for each phase: connections without a complete head
//!    yet, as during the TLS handshake; those whose body is being received; those whose request is being
//!    served.
//! 3. A few slots are only for this machine and the networks at home.
//!
//! Where one of these limits is reached, a connection that waits for its client gives way to a new one: the
//! oldest of the network with the most of them. Those that have had a request of an authenticated sender are
//! the last of these, so that unknown senders do not close the idle connections of clients and other servers. If
//! all serve requests, it is one of a network that has more connections than the new one's; those whose
//! sender is not authenticated go first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

use super::peer::{ClientAddresses, is_private};
use crate::{gauges::Usage, rates::site};

/// A network may have a fourth of all connections.
const NETWORK_SHARE: usize = 4;
/// So may connections without a complete head, and those with an incomplete body of an unknown sender.
const HEADLESS_SHARE: usize = 4;
const RECEIVING_SHARE: usize = 4;
/// Requests of unknown senders that are being served may have half of them.
const UNAUTHENTICATED_SHARE: usize = 2;
/// A sixteenth is only for this machine and the networks at home.
const PRIVATE_SHARE: usize = 16;

/// The phase of a connection, in the order in which they give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// The body of a request is being received, or drained, whose sender is not known.
    Receiving,
    /// Between two requests, of which none had an authenticated sender.
    Idle,
    /// No head has been received yet.
    Headless,
    /// Serves a request whose sender is not authenticated, at least not yet.
    Unauthenticated,
    /// Between two requests, after one whose sender was authenticated.
    IdleAuthenticated,
    Authenticated,
}

impl Phase {
    /// For the client.
    fn is_waiting(self) -> bool {
        !matches!(self, Self::Unauthenticated | Self::Authenticated)
    }
}

struct Connection {
    /// Of the client of the current request; between requests, that of the connection.
    network: IpAddr,
    /// Of the connection.
    peer: IpAddr,
    is_private: bool,
    phase: Phase,
    /// Whether a request had an authenticated sender.
    was_authenticated: bool,
    /// The number of the step by which it was opened, or its current request began or ended.
    since: u64,
    /// Closes the connection.
    _close: Sender<()>,
}

impl Connection {
    fn between_requests(&self) -> Phase {
        if self.was_authenticated {
            Phase::IdleAuthenticated
        } else {
            Phase::Idle
        }
    }
}

#[derive(Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    next_step: u64,
}

/// The slots of all listeners.
pub(super) struct ConnectionSlots {
    max: usize,
    addresses: Arc<ClientAddresses>,
    state: Mutex<State>,
}

/// One of the slots, until it is dropped.
pub(super) struct Slot {
    slots: Arc<ConnectionSlots>,
    id: u64,
}

impl ConnectionSlots {
    pub(super) fn new(max: usize, addresses: Arc<ClientAddresses>) -> Arc<Self> {
        Arc::new(Self {
            max,
            addresses,
            state: Mutex::default(),
        })
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(self.lock().connections.len(), self.max)
    }

    pub(super) fn addresses(&self) -> &ClientAddresses {
        &self.addresses
    }

    /// A slot for a connection from `address`. The receiver ends when it has to give way.
    pub(super) fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<(Slot, Receiver<()>)> {
        let peer = site(address);
        let is_private = is_private(address);
        let mut state = self.lock();
        let of_network = state.count(|connection| connection.network == peer);
        if of_network >= self.max / NETWORK_SHARE && !self.addresses.is_proxy(address) {
            state.evict(Some(0), |connection| {
                connection.network == peer && connection.phase.is_waiting()
            })?;
        }
        state.evict_beyond(Phase::Headless, self.max / HEADLESS_SHARE);
        let is_counted = |connection: &Connection| is_private || !connection.is_private;
        let reserved = if is_private {
            0
        } else {
            self.max / PRIVATE_SHARE
        };
        if state.connections.len() >= self.max || state.count(is_counted) >= self.max - reserved {
            state.evict(Some(of_network), is_counted)?;
        }
        let id = state.step();
        let (close, closed) = channel::bounded(1);
        let connection = Connection {
            network: peer,
            peer,
            is_private,
            phase: Phase::Headless,
            was_authenticated: false,
            since: id,
            _close: close,
        };
        state.connections.insert(id, connection);
        drop(state);
        let slot = Slot {
            slots: self.clone(),
            id,
        };
        Some((slot, closed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn step(&mut self) -> u64 {
        self.next_step += 1;
        self.next_step
    }

    fn count(&self, is_counted: impl Fn(&Connection) -> bool) -> usize {
        self.connections
            .values()
            .filter(|connection| is_counted(connection))
            .count()
    }

    fn phase_of(&self, id: u64) -> Option<Phase> {
        self.connections.get(&id).map(|connection| connection.phase)
    }

    fn set_phase(&mut self, id: u64, phase: Phase) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = phase;
        }
    }

    /// Closes a connection in `phase` if one more would be more than `max`.
    fn evict_beyond(&mut self, phase: Phase, max: usize) {
        let is_counted = |connection: &Connection| connection.phase == phase;
        if self.count(is_counted) >= max {
            self.evict(None, is_counted);
        }
    }

    /// Closes one of the connections `among`, for a network that has `own` connections; None is for a share,
    /// to which those that are served give way too. Returns None if there is none that gives way.
    fn evict(&mut self, own: Option<usize>, among: impl Fn(&Connection) -> bool) -> Option<()> {
        let mut counts: HashMap<(Phase, IpAddr), usize> = HashMap::new();
        let candidates = self.connections.iter();
        let candidates = candidates.filter(|(_, connection)| among(connection));
        for (_, connection) in candidates.clone() {
            *counts
                .entry((connection.phase, connection.network))
                .or_default() += 1;
        }
        let ranked = candidates.filter_map(|(id, connection)| {
            let Connection { phase, since, .. } = *connection;
            let count = counts.get(&(phase, connection.network)).copied()?;
            let gives_way = phase.is_waiting() || own.is_none_or(|own| count > own + 1);
            gives_way.then_some(((phase, Reverse(count), since), *id))
        });
        let (_, evicted) = ranked.min()?;
        self.connections.remove(&evicted);
        Some(())
    }
}

impl Slot {
    /// A request of `client` begins. Returns its number, or None if the client's network has too many
    /// connections.
    pub(super) fn begin_request(&self, client: IpAddr) -> Option<u64> {
        let client = site(client);
        let mut state = self.slots.lock();
        let step = state.step();
        let is_of_client = |connection: &Connection| connection.network == client;
        let max = self.slots.max / NETWORK_SHARE;
        let is_admitted = state.connections.get(&self.id).is_none_or(is_of_client)
            || state.count(is_of_client) < max;
        if is_admitted {
            state.evict_beyond(
                Phase::Unauthenticated,
                self.slots.max / UNAUTHENTICATED_SHARE,
            );
        }
        // If it is not there, it is about to be closed.
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.since = step;
            if is_admitted {
                connection.phase = Phase::Unauthenticated;
                connection.network = client;
            } else {
                connection.phase = connection.between_requests();
            }
        }
        is_admitted.then_some(step)
    }

    /// The sender of the current request is authenticated.
    pub(super) fn authenticated(&self) {
        if let Some(connection) = self.slots.lock().connections.get_mut(&self.id) {
            connection.phase = Phase::Authenticated;
            connection.was_authenticated = true;
        }
    }

    /// The body of the current request is waited for, whose sender is not known. Not to be called if there
    /// is no body.
    pub(super) fn begin_body(&self) {
        let mut state = self.slots.lock();
        if state.phase_of(self.id) == Some(Phase::Unauthenticated) {
            state.evict_beyond(Phase::Receiving, self.slots.max / RECEIVING_SHARE);
            state.set_phase(self.id, Phase::Receiving);
        }
    }

    /// The body is complete, or not waited for any more.
    pub(super) fn end_body(&self) {
        let mut state = self.slots.lock();
        if state.phase_of(self.id) == Some(Phase::Receiving) {
            state.set_phase(self.id, Phase::Unauthenticated);
        }
    }

    /// The request with this number has ended. The next may have begun already.
    pub(super) fn end_request(&self, number: u64) {
        let mut state = self.slots.lock();
        let step = state.step();
        if let Some(connection) = state.connections.get_mut(&self.id)
            && connection.since == number
        {
            connection.since = step;
            connection.phase = connection.between_requests();
            connection.network = connection.peer;
        }
    }

    pub(super) fn addresses(&self) -> &ClientAddresses {
        self.slots.addresses()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use smol::channel::Receiver;

    use super::{ClientAddresses, ConnectionSlots, Slot};
    use crate::config::TrustedProxies;

    fn slots(max: usize) -> Arc<ConnectionSlots> {
        let addresses = ClientAddresses::new(TrustedProxies::default());
        ConnectionSlots::new(max, Arc::new(addresses))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A connection of a test.
    struct Held(Slot, Receiver<()>);

    impl Held {
        fn new(slots: &Arc<ConnectionSlots>, address: &str) -> Option<Self> {
            let (slot, closed) = slots.acquire(ip(address))?;
            Some(Self(slot, closed))
        }

        fn is_open(&self) -> bool {
            !self.1.is_closed()
        }

        fn serves(self, client: &str) -> Self {
            self.0.begin_request(ip(client)).unwrap();
            self
        }

        /// Serves a request of an authenticated sender.
        fn serves_user(self, client: &str) -> Self {
            self.0.begin_request(ip(client)).unwrap();
            self.0.authenticated();
            self
        }

        /// Has served a request of an authenticated sender.
        fn rests(self, client: &str) -> Self {
            let number = self.0.begin_request(ip(client)).unwrap();
            self.0.authenticated();
            self.0.end_request(number);
            self
        }
    }

    /// `count` connections from `address` that serve requests of authenticated senders.
    fn busy(slots: &Arc<ConnectionSlots>, address: &str, count: usize) -> Vec<Held> {
        let all = (0..count).map(|_| Held::new(slots, address).unwrap().serves_user(address));
        all.collect()
    }

    /// A network of its own for each number.
    fn unknown(n: usize) -> String {
        format!("203.0.{}.{}", n / 250, n % 250)
    }

    #[test]
    fn a_network_has_a_fourth_of_the_slots_and_the_oldest_idle_one_gives_way_to_its_next() {
        let slots = slots(16);
        let _busy = busy(&slots, "2001:db8::1", 2);
        let idle: Vec<Held> = (0..2)
            .map(|_| Held::new(&slots, "2001:db8::2").unwrap())
            .collect();
        let next = Held::new(&slots, "2001:db8::3")
            .unwrap()
            .serves("2001:db8::3");
        assert!(!idle[0].is_open() && idle[1].is_open());
        let last = Held::new(&slots, "2001:db8::3")
            .unwrap()
            .serves("2001:db8::3");
        assert!(!idle[1].is_open() && next.is_open());
        assert!(Held::new(&slots, "2001:db8::4").is_none(), "all are busy");
        assert!(Held::new(&slots, "2001:db8:1::1").is_some());
        drop(last);
        assert!(Held::new(&slots, "2001:db8::4").is_some());
    }

    #[test]
    fn when_all_slots_are_taken_the_network_with_the_most_idle_connections_loses_one() {
        let slots = slots(16);
        let serve = |held: Held| {
            held.0
                .end_request(held.0.begin_request(ip("192.0.2.1")).unwrap());
            held
        };
        let small: Vec<Held> = (0..6)
            .map(|n| serve(Held::new(&slots, &format!("198.51.100.{n}")).unwrap()))
            .collect();
        let large: Vec<Held> = (0..3)
            .flat_map(|n| {
                [
                    format!("192.0.2.{n}"),
                    format!("192.0.2.{n}"),
                    format!("192.0.2.{n}"),
                ]
            })
            .map(|address| serve(Held::new(&slots, &address).unwrap()))
            .collect();
        let _new: Vec<Held> = (0..3)
            .map(|n| serve(Held::new(&slots, &format!("203.0.113.{n}")).unwrap()))
            .collect();
        assert!(small.iter().all(Held::is_open));
        let open: Vec<bool> = large.iter().map(Held::is_open).collect();
        let one = [false, true, true];
        assert_eq!(open, [one, one, one].concat());
    }

    #[test]
    fn connections_without_a_head_do_not_displace_those_that_have_had_one() {
        let slots = slots(16);
        let idle: Vec<Held> = (0..11)
            .map(|n| Held::new(&slots, &format!("198.51.100.{n}")).unwrap())
            .inspect(|held| {
                held.0
                    .end_request(held.0.begin_request(ip("192.0.2.1")).unwrap())
            })
            .collect();
        let _attack: Vec<Held> = (0..100)
            .map(|n| Held::new(&slots, &format!("203.0.113.{n}")).unwrap())
            .collect();
        assert!(idle.iter().all(Held::is_open));
    }

    #[test]
    fn when_all_slots_serve_requests_a_network_with_more_of_them_gives_way() {
        let slots = slots(16);
        let mut attack = Vec::new();
        for n in 0..7 {
            attack.extend(busy(&slots, &format!("203.0.113.{n}"), 1));
        }
        for n in 0..4 {
            let address = format!("203.0.113.{n}");
            attack.extend((0..2).map(|_| Held::new(&slots, &address).unwrap().serves(&address)));
        }
        let new = Held::new(&slots, "198.51.100.1").unwrap();
        let closed: Vec<usize> = (0..15).filter(|n| !attack[*n].is_open()).collect();
        assert_eq!(closed, [7], "the oldest that is not authenticated");
        assert!(new.is_open());
    }

    #[test]
    fn half_sent_bodies_of_many_networks_close_no_connection_of_an_authenticated_client() {
        let slots = slots(64);
        let rest = |n| Held::new(&slots, &format!("198.51.100.{n}")).unwrap();
        let idle: Vec<Held> = (0..20).map(|n| rest(n).rests("192.0.2.1")).collect();
        let user = Held::new(&slots, "192.0.2.1")
            .unwrap()
            .serves_user("192.0.2.1");
        let mut attack = Vec::new();
        for n in 0..500 {
            let Some(held) = Held::new(&slots, &unknown(n)) else {
                continue;
            };
            if n % 3 > 0 && held.0.begin_request(ip(&unknown(n))).is_some() && n % 3 == 1 {
                held.0.begin_body();
            }
            attack.push(held);
            let new = Held::new(&slots, "192.0.2.9").unwrap().rests("192.0.2.9");
            assert!(new.is_open());
        }
        assert!(idle.iter().all(Held::is_open) && user.is_open());
        let open = attack.iter().filter(|held| held.is_open()).count();
        assert!((16..=43).contains(&open), "{open}");
    }

    #[test]
    fn requests_of_unknown_senders_have_half_of_the_slots_and_their_oldest_gives_way() {
        let slots = slots(64);
        let served: Vec<Held> = (0..100)
            .map(|n| Held::new(&slots, &unknown(n)).unwrap().serves(&unknown(n)))
            .collect();
        let open: Vec<usize> = (0..100).filter(|n| served[*n].is_open()).collect();
        assert_eq!(open, (68..100).collect::<Vec<_>>());
        served[99].0.begin_body();
        served[99].0.end_body();
        let _next = Held::new(&slots, "192.0.2.1").unwrap().serves("192.0.2.1");
        assert!(served[99].is_open() && !served[68].is_open());
    }

    #[test]
    fn slots_are_left_for_this_machine_and_the_networks_at_home() {
        let slots = slots(32);
        let remote: Vec<Held> = (0..30)
            .map(|n| format!("198.51.100.{n}"))
            .flat_map(|address| busy(&slots, &address, 1))
            .collect();
        assert!(Held::new(&slots, "203.0.113.1").is_none());
        let _home = [
            Held::new(&slots, "127.0.0.1"),
            Held::new(&slots, "192.168.1.5"),
        ];
        assert!(_home.iter().all(Option::is_some) && remote.iter().all(Held::is_open));
    }

    #[test]
    fn a_network_behind_a_proxy_has_its_share_and_the_proxy_has_no_limit() {
        let slots = slots(16);
        let behind: Vec<Held> = (0..10)
            .filter_map(|n| {
                let held = Held::new(&slots, "127.0.0.1").unwrap();
                let is_admitted = held.0.begin_request(ip("192.0.2.1")).is_some();
                assert_eq!(is_admitted, n < 4);
                is_admitted.then_some(held)
            })
            .collect();
        let other = Held::new(&slots, "127.0.0.1").unwrap();
        assert!(other.0.begin_request(ip("192.0.2.2")).is_some());
        let next = Held::new(&slots, "127.0.0.1").unwrap();
        assert!(next.0.begin_request(ip("192.0.2.1")).is_none());
        let number = behind[0].0.begin_request(ip("192.0.2.1")).unwrap();
        behind[0].0.end_request(number);
        assert!(next.0.begin_request(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_connection_that_ends_leaves_nothing_behind() {
        let slots = slots(16);
        for n in 0..100_u8 {
            drop(
                Held::new(&slots, &format!("192.0.2.{n}"))
                    .unwrap()
                    .serves("192.0.2.1"),
            );
        }
        assert!(slots.lock().connections.is_empty());
    }
}
