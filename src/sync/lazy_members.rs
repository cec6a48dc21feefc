//! Which members a device has been told of, for clients that load members lazily and do not want
//! to be told twice (client-server API, "Lazy-loading room members").
//!
//! Memory only, and small: who is forgotten here is told again, which costs some bytes. Nobody is
//! taken for known who might not be: what went out in an answer counts only once the device comes
//! back with that answer's token; if it comes back with an earlier one, the answer is taken as lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::store::{DeviceNum, EventNum, Position, RoomNum, StateKeyNum};

/// How many members are remembered in all; beyond that the devices that synced longest ago are
/// forgotten.
const MEMBERS: usize = 50_000;
/// How many members are remembered of one device; beyond that it is forgotten.
const OF_DEVICE: usize = 5_000;
/// How many devices are remembered, whatever they know.
const DEVICES: usize = 1_000;

/// What the devices know.
#[derive(Debug, Default)]
pub struct LazyLoadedMembers(Mutex<Devices>);

#[derive(Debug, Default)]
struct Devices {
    /// Counts up with every sync.
    syncs: u64,
    members: usize,
    of: HashMap<DeviceNum, Device>,
}

#[derive(Debug, Default)]
struct Device {
    /// Its newest sync.
    synced: u64,
    members: HashMap<(RoomNum, StateKeyNum), Member>,
}

#[derive(Debug)]
struct Member {
    event: EventNum,
    /// The end of the answer in which it was told.
    told: Position,
}

/// What one device knows while it is answered.
#[derive(Clone, Debug)]
pub struct OfDevice {
    all: Arc<LazyLoadedMembers>,
    device: DeviceNum,
    sync: u64,
    since: Option<Position>,
}

impl LazyLoadedMembers {
    /// Begins to answer a device whose last answer ended at `since`; none for an initial sync.
    pub fn begin(self: &Arc<Self>, device: DeviceNum, since: Option<Position>) -> OfDevice {
        let mut all = self.lock();
        all.syncs += 1;
        let sync = all.syncs;
        let of_device = all.of.entry(device).or_default();
        of_device.synced = sync;
        let before = of_device.members.len();
        of_device
            .members
            .retain(|_, member| since.is_some_and(|since| member.told <= since));
        all.members -= before - of_device.members.len();
        all.shrink();
        drop(all);
        OfDevice {
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
    fn shrink(&mut self) {
        while self.members > MEMBERS || self.of.len() > DEVICES {
            let oldest = self.of.iter().min_by_key(|(_, device)| device.synced);
            let Some(oldest) = oldest.map(|(device, _)| *device) else {
                break;
            };
            let forgotten = self.of.remove(&oldest);
            self.members -= forgotten.map_or(0, |device| device.members.len());
        }
    }
}

impl OfDevice {
    /// Whether the device knows that `event` is what stands at `key`.
    pub fn has(&self, room: RoomNum, key: StateKeyNum, event: EventNum) -> bool {
        let all = self.all.lock();
        let device = all.of.get(&self.device);
        let member = device.and_then(|device| device.members.get(&(room, key)));
        member.is_some_and(|member| {
            member.event == event && self.since.is_some_and(|since| member.told <= since)
        })
    }

    /// The device is told of `members` in an answer that ends at `end`. That says nothing if the
    /// device asks again already: it has given this answer up.
    pub fn told(
        &self,
        room: RoomNum,
        members: impl IntoIterator<Item = (StateKeyNum, EventNum)>,
        end: Position,
    ) {
        let mut all = self.all.lock();
        let all = &mut *all;
        let device = all.of.get_mut(&self.device);
        let Some(device) = device.filter(|device| device.synced == self.sync) else {
            return;
        };
        let before = device.members.len();
        for (key, event) in members {
            // The first answer that told of it is the one that counts.
            let known = device.members.get(&(room, key));
            if known.is_none_or(|known| known.event != event) {
                let told = Member { event, told: end };
                device.members.insert((room, key), told);
            }
        }
        all.members += device.members.len() - before;
        if device.members.len() > OF_DEVICE {
            all.members -= device.members.len();
            device.members.clear();
        }
        all.shrink();
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
    fn a_member_is_known_once_the_answer_has_arrived_and_until_it_changes() {
        let all = Arc::new(LazyLoadedMembers::default());
        let first = all.begin(PHONE, None);
        first.told(ROOM, [(BOB, JOINED)], Position(5));
        assert!(!first.has(ROOM, BOB, JOINED), "it may not arrive");
        let second = all.begin(PHONE, Some(Position(5)));
        assert!(second.has(ROOM, BOB, JOINED));
        assert!(!second.has(ROOM, BOB, EventNum(10)));
        assert!(!second.has(RoomNum(2), BOB, JOINED));
        let other = all.begin(DeviceNum(2), Some(Position(5)));
        assert!(!other.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn an_answer_that_got_lost_and_an_initial_sync_make_forget() {
        let all = Arc::new(LazyLoadedMembers::default());
        let tell = |since| {
            let knows = all.begin(PHONE, since);
            knows.told(ROOM, [(BOB, JOINED)], Position(5));
        };
        tell(Some(Position(3)));
        all.begin(PHONE, Some(Position(3)));
        let later = all.begin(PHONE, Some(Position(6)));
        assert!(!later.has(ROOM, BOB, JOINED), "the answer got lost");
        tell(Some(Position(3)));
        all.begin(PHONE, None);
        assert!(!all.begin(PHONE, Some(Position(6))).has(ROOM, BOB, JOINED));
    }

    #[test]
    fn an_answer_that_was_given_up_while_it_was_made_tells_nothing() {
        let all = Arc::new(LazyLoadedMembers::default());
        let given_up = all.begin(PHONE, Some(Position(3)));
        all.begin(PHONE, Some(Position(3)));
        given_up.told(ROOM, [(BOB, JOINED)], Position(5));
        let later = all.begin(PHONE, Some(Position(6)));
        assert!(!later.has(ROOM, BOB, JOINED));
    }

    #[test]
    fn memory_has_an_end_and_forgets_who_synced_longest_ago() {
        let all = Arc::new(LazyLoadedMembers::default());
        let members = |count: u32| (0..count).map(|key| (StateKeyNum(key), JOINED));
        for device in 1..=11 {
            let knows = all.begin(DeviceNum(device), Some(Position(1)));
            knows.told(ROOM, members(5_000), Position(1));
        }
        let has = |device| {
            let knows = all.begin(DeviceNum(device), Some(Position(1)));
            knows.has(ROOM, BOB, JOINED)
        };
        assert!(!has(1) && has(2) && has(11));
        all.begin(PHONE, Some(Position(1)))
            .told(ROOM, members(5_001), Position(1));
        assert!(!has(1), "one device alone has an end too");
        assert!(all.lock().members <= MEMBERS);
        for device in 0..2_000 {
            all.begin(DeviceNum(device), None);
        }
        assert!(all.lock().of.len() <= DEVICES);
    }
}
