//! The member events that each device has received, so that they are not sent again to clients that load
//! members lazily (client-server API, "Lazy-loading room members").
//!
//! In memory only; a forgotten member is sent again. A member counts as received once the device comes
//! back with the token of the response that had it. If the device comes back with an earlier token, that
//! response was lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::store::{DeviceNum, EventNum, Position, RoomNum, StateKeyNum};

/// The most members of all devices; beyond it the devices that synced longest ago are evicted.
const MAX_MEMBERS: usize = 50_000;
/// The most members of one device; beyond it the device is evicted.
const MAX_MEMBERS_PER_DEVICE: usize = 5_000;
const MAX_DEVICES: usize = 1_000;

#[derive(Debug, Default)]
pub struct LazyLoadedMembers(Mutex<Devices>);

#[derive(Debug, Default)]
struct Devices {
    /// The number of syncs so far.
    syncs: u64,
    members: usize,
    of: HashMap<DeviceNum, Device>,
}

#[derive(Debug, Default)]
struct Device {
    /// The number of its last sync.
    last_sync: u64,
    members: HashMap<(RoomNum, StateKeyNum), Member>,
}

#[derive(Debug)]
struct Member {
    event: EventNum,
    /// The end of the first response that had it.
    sent_upto: Position,
}

/// The members of one device, for one sync.
#[derive(Clone, Debug)]
pub struct DeviceMembers {
    all: Arc<LazyLoadedMembers>,
    device: DeviceNum,
    sync: u64,
    since: Option<Position>,
}

impl LazyLoadedMembers {
    /// Begins a sync of a device whose last response ended at `since`; `None` for an initial sync.
    pub fn begin(self: &Arc<Self>, device: DeviceNum, since: Option<Position>) -> DeviceMembers {
        let mut all = self.lock();
        all.syncs += 1;
        let sync = all.syncs;
        let device_members = all.of.entry(device).or_default();
        device_members.last_sync = sync;
        let before = device_members.members.len();
        device_members
            .members
            .retain(|_, member| since.is_some_and(|since| member.sent_upto <= since));
        all.members -= before - device_members.members.len();
        all.evict();
        drop(all);
        DeviceMembers {
            all: self.clone(),
            device,
            sync,
            since,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Devices {
    fn evict(&mut self) {
        while self.members > MAX_MEMBERS || self.of.len() > MAX_DEVICES {
            let oldest = self.of.iter().min_by_key(|(_, device)| device.last_sync);
            let Some(oldest) = oldest.map(|(device, _)| *device) else {
                break;
            };
            let evicted = self.of.remove(&oldest);
            self.members -= evicted.map_or(0, |device| device.members.len());
        }
    }
}

impl DeviceMembers {
    /// Whether the device has received `event` as the member event at `key`.
    pub fn has(&self, room: RoomNum, key: StateKeyNum, event: EventNum) -> bool {
        let all = self.all.lock();
        let device = all.of.get(&self.device);
        let member = device.and_then(|device| device.members.get(&(room, key)));
        member.is_some_and(|member| {
            member.event == event && self.since.is_some_and(|since| member.sent_upto <= since)
        })
    }

    /// Notes that a response ending at `end` has `members`. Ignored if the device has begun another sync:
    /// it has given up this response.
    pub fn sent(
        &self,
        room: RoomNum,
        members: impl IntoIterator<Item = (StateKeyNum, EventNum)>,
        end: Position,
    ) {
        let mut all = self.all.lock();
        let all = &mut *all;
        let device = all.of.get_mut(&self.device);
        let Some(device) = device.filter(|device| device.last_sync == self.sync) else {
            return;
        };
        let before = device.members.len();
        for (key, event) in members {
            let known = device.members.get(&(room, key));
            if known.is_none_or(|known| known.event != event) {
                let member = Member {
                    event,
                    sent_upto: end,
                };
                device.members.insert((room, key), member);
            }
        }
        all.members += device.members.len() - before;
        if device.members.len() > MAX_MEMBERS_PER_DEVICE {
            all.members -= device.members.len();
            device.members.clear();
        }
        all.evict();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: DeviceNum = DeviceNum(1);
    const ROOM: RoomNum = RoomNum(1);
    const BOB: StateKeyNum = StateKeyNum(7);
    const JOINED: EventNum = EventNum(9);

    #[test]
    fn a_member_counts_as_received_with_the_next_token_and_until_it_changes() {
        let all = Arc::new(LazyLoadedMembers::default());
        let first = all.begin(PHONE, None);
        first.sent(ROOM, [(BOB, JOINED)], Position(5));
        assert!(!first.has(ROOM, BOB, JOINED), "not received yet");
        let second = all.begin(PHONE, Some(Position(5)));
        assert!(second.has(ROOM, BOB, JOINED));
        assert!(!second.has(ROOM, BOB, EventNum(10)));
        assert!(!second.has(RoomNum(2), BOB, JOINED));
        let other = all.begin(DeviceNum(2), Some(Position(5)));
        assert!(!other.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn a_lost_response_or_an_initial_sync_forgets_its_members() {
        let all = Arc::new(LazyLoadedMembers::default());
        let send = |since| {
            let members = all.begin(PHONE, since);
            members.sent(ROOM, [(BOB, JOINED)], Position(5));
        };
        send(Some(Position(3)));
        all.begin(PHONE, Some(Position(3)));
        let later = all.begin(PHONE, Some(Position(6)));
        assert!(!later.has(ROOM, BOB, JOINED), "the response was lost");
        send(Some(Position(3)));
        all.begin(PHONE, None);
        assert!(!all.begin(PHONE, Some(Position(6))).has(ROOM, BOB, JOINED));
    }

    #[test]
    fn a_response_that_the_device_gave_up_is_not_counted() {
        let all = Arc::new(LazyLoadedMembers::default());
        let given_up = all.begin(PHONE, Some(Position(3)));
        all.begin(PHONE, Some(Position(3)));
        given_up.sent(ROOM, [(BOB, JOINED)], Position(5));
        let later = all.begin(PHONE, Some(Position(6)));
        assert!(!later.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn devices_that_synced_longest_ago_are_evicted_beyond_the_limits() {
        let all = Arc::new(LazyLoadedMembers::default());
        let numbered = |count: u32| (0..count).map(|key| (StateKeyNum(key), JOINED));
        for device in 1..=11 {
            let members = all.begin(DeviceNum(device), Some(Position(1)));
            members.sent(ROOM, numbered(5_000), Position(1));
        }
        let has = |device| {
            let members = all.begin(DeviceNum(device), Some(Position(1)));
            members.has(ROOM, BOB, JOINED)
        };
        assert!(!has(1) && has(2) && has(11));
        all.begin(PHONE, Some(Position(1)))
            .sent(ROOM, numbered(5_001), Position(1));
        assert!(!has(1), "a single device has a limit too");
        assert!(all.lock().members <= MAX_MEMBERS);
        for device in 0..2_000 {
            all.begin(DeviceNum(device), None);
        }
        assert!(all.lock().of.len() <= MAX_DEVICES);
    }
}
