//! The member events that each client has received, so that they are not sent again to clients that load
//! members lazily (client-server API, "Lazy-loading room members"). A client is a device that uses `/sync`,
//! or a connection of simplified sliding sync.
//!
//! In memory only; a forgotten member is sent again. A member counts as received once the client comes
//! back with the token of the response that had it. If the client comes back with an earlier token, that
//! response was lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::store::{DeviceNum, EventNum, Position, RoomNum, StateKeyNum};

/// The most members of all clients; beyond it the clients that synced longest ago are evicted.
const MAX_MEMBERS: usize = 50_000;
/// The most members of one client; beyond it the client is evicted.
const MAX_MEMBERS_PER_CLIENT: usize = 5_000;
const MAX_CLIENTS: usize = 1_000;

/// A device, and the id of the connection if it uses simplified sliding sync.
pub type ClientKey = (DeviceNum, Option<Arc<str>>);

/// The end of a response: the number of the connection's state, which is 0 for `/sync`, and the position.
pub type Progress = (u64, Position);

#[derive(Debug, Default)]
pub struct LazyLoadedMembers(Mutex<Clients>);

#[derive(Debug, Default)]
struct Clients {
    /// The number of syncs so far.
    syncs: u64,
    members: usize,
    of: HashMap<ClientKey, Client>,
}

#[derive(Debug, Default)]
struct Client {
    /// The number of its last sync.
    last_sync: u64,
    members: HashMap<(RoomNum, StateKeyNum), Member>,
}

#[derive(Debug)]
struct Member {
    event: EventNum,
    /// Where the first response that had it ended.
    sent_upto: Progress,
}

/// The members of one client, for one sync.
#[derive(Clone, Debug)]
pub struct ClientMembers {
    all: Arc<LazyLoadedMembers>,
    client: ClientKey,
    sync: u64,
    since: Option<Progress>,
}

impl LazyLoadedMembers {
    /// Begins a sync of a client whose last response ended at `since`; `None` for an initial sync.
    pub fn begin(self: &Arc<Self>, client: ClientKey, since: Option<Progress>) -> ClientMembers {
        let mut all = self.lock();
        all.syncs += 1;
        let sync = all.syncs;
        let members = all.of.entry(client.clone()).or_default();
        members.last_sync = sync;
        let before = members.members.len();
        members
            .members
            .retain(|_, member| since.is_some_and(|since| member.sent_upto <= since));
        all.members -= before - members.members.len();
        all.evict();
        drop(all);
        ClientMembers {
            all: self.clone(),
            client,
            sync,
            since,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    fn evict(&mut self) {
        while self.members > MAX_MEMBERS || self.of.len() > MAX_CLIENTS {
            let oldest = self.of.iter().min_by_key(|(_, client)| client.last_sync);
            let Some(oldest) = oldest.map(|(client, _)| client.clone()) else {
                break;
            };
            let evicted = self.of.remove(&oldest);
            self.members -= evicted.map_or(0, |client| client.members.len());
        }
    }
}

impl ClientMembers {
    /// Whether the client has received `event` as the member event at `key`.
    pub fn has(&self, room: RoomNum, key: StateKeyNum, event: EventNum) -> bool {
        let all = self.all.lock();
        let client = all.of.get(&self.client);
        let member = client.and_then(|client| client.members.get(&(room, key)));
        member.is_some_and(|member| {
            member.event == event && self.since.is_some_and(|since| member.sent_upto <= since)
        })
    }

    /// Notes that a response ending at `end` has `members`. Ignored if the client has begun another sync:
    /// it has given up this response.
    pub fn sent(
        &self,
        room: RoomNum,
        members: impl IntoIterator<Item = (StateKeyNum, EventNum)>,
        end: Progress,
    ) {
        let mut all = self.all.lock();
        let all = &mut *all;
        let client = all.of.get_mut(&self.client);
        let Some(client) = client.filter(|client| client.last_sync == self.sync) else {
            return;
        };
        let before = client.members.len();
        for (key, event) in members {
            let known = client.members.get(&(room, key));
            if known.is_none_or(|known| known.event != event) {
                let member = Member {
                    event,
                    sent_upto: end,
                };
                client.members.insert((room, key), member);
            }
        }
        all.members += client.members.len() - before;
        if client.members.len() > MAX_MEMBERS_PER_CLIENT {
            all.members -= client.members.len();
            client.members.clear();
        }
        all.evict();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: ClientKey = (DeviceNum(1), None);
    const ROOM: RoomNum = RoomNum(1);
    const BOB: StateKeyNum = StateKeyNum(7);
    const JOINED: EventNum = EventNum(9);

    fn at(position: u64) -> Progress {
        (0, Position(position))
    }

    #[test]
    fn a_member_counts_as_received_with_the_next_token_and_until_it_changes() {
        let all = Arc::new(LazyLoadedMembers::default());
        let first = all.begin(PHONE, None);
        first.sent(ROOM, [(BOB, JOINED)], at(5));
        assert!(!first.has(ROOM, BOB, JOINED), "not received yet");
        let second = all.begin(PHONE, Some(at(5)));
        assert!(second.has(ROOM, BOB, JOINED));
        assert!(!second.has(ROOM, BOB, EventNum(10)));
        assert!(!second.has(RoomNum(2), BOB, JOINED));
        let other = all.begin((DeviceNum(2), None), Some(at(5)));
        assert!(!other.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn a_lost_response_or_an_initial_sync_forgets_its_members() {
        let all = Arc::new(LazyLoadedMembers::default());
        let send = |since| {
            let members = all.begin(PHONE, since);
            members.sent(ROOM, [(BOB, JOINED)], at(5));
        };
        send(Some(at(3)));
        all.begin(PHONE, Some(at(3)));
        let later = all.begin(PHONE, Some(at(6)));
        assert!(!later.has(ROOM, BOB, JOINED), "the response was lost");
        send(Some(at(3)));
        all.begin(PHONE, None);
        assert!(!all.begin(PHONE, Some(at(6))).has(ROOM, BOB, JOINED));
    }

    #[test]
    fn a_response_that_the_client_gave_up_is_not_counted() {
        let all = Arc::new(LazyLoadedMembers::default());
        let given_up = all.begin(PHONE, Some(at(3)));
        all.begin(PHONE, Some(at(3)));
        given_up.sent(ROOM, [(BOB, JOINED)], at(5));
        let later = all.begin(PHONE, Some(at(6)));
        assert!(!later.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn clients_that_synced_longest_ago_are_evicted_beyond_the_limits() {
        let all = Arc::new(LazyLoadedMembers::default());
        let numbered = |count: u32| (0..count).map(|key| (StateKeyNum(key), JOINED));
        for device in 1..=11 {
            let members = all.begin((DeviceNum(device), None), Some(at(1)));
            members.sent(ROOM, numbered(5_000), at(1));
        }
        let has = |device| {
            let members = all.begin((DeviceNum(device), None), Some(at(1)));
            members.has(ROOM, BOB, JOINED)
        };
        assert!(!has(1) && has(2) && has(11));
        all.begin(PHONE, Some(at(1)))
            .sent(ROOM, numbered(5_001), at(1));
        assert!(!has(1), "a single client has a limit too");
        assert!(all.lock().members <= MAX_MEMBERS);
        for device in 0..2_000 {
            all.begin((DeviceNum(device), None), None);
        }
        assert!(all.lock().of.len() <= MAX_CLIENTS);
    }
}
