use ruma::{OwnedRoomId, room_version_rules::RoomVersionRules};

use crate::{
    rooms::{self, room},
    store::{Reader, RoomNum},
};

/// A room whose events are received or fetched.
#[derive(Clone, Debug)]
pub struct Room {
    pub num: RoomNum,
    pub id: OwnedRoomId,
    pub rules: &'static RoomVersionRules,
}

impl Room {
    pub fn load(r: &impl Reader, num: RoomNum) -> Result<Self, rooms::Error> {
        Ok(Self {
            num,
            id: room::id(r, num)?,
            rules: room::rules(r, num)?,
        })
    }
}
