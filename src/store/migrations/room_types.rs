//! Fills `room_types` from the create events.

use redb::{ReadableTable, WriteTransaction};
use serde::Deserialize;

use crate::store::{
    Error,
    field::{bytes_of, view_of},
    ids::{RoomNum, StateKeyNum},
    packed::unpack_before,
    records::EventHeader,
    table::raw,
};

#[derive(Deserialize)]
struct Create {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

pub(super) fn fill(txn: &WriteTransaction) -> Result<(), Error> {
    let rooms = txn.open_table(raw("rooms"))?;
    let state_keys = txn.open_table(raw("state_keys"))?;
    let current_state = txn.open_table(raw("current_state"))?;
    let events = txn.open_table(raw("events"))?;
    let mut room_types = txn.open_table(raw("room_types"))?;
    for row in rooms.iter()? {
        let row = row?;
        let room = view_of::<RoomNum>(row.0.value());
        let key = bytes_of::<(RoomNum, &str, &str)>(&(room, "m.room.create", ""));
        let Some(number) = state_keys.get(&*key)? else {
            continue;
        };
        let key = (room, view_of::<StateKeyNum>(number.value()));
        let Some(event) = current_state.get(&*bytes_of::<(RoomNum, StateKeyNum)>(&key))? else {
            continue;
        };
        let Some(event) = events.get(event.value())? else {
            continue;
        };
        let (_, json) = unpack_before::<EventHeader>(event.value())?;
        let room_type = serde_json::from_slice::<Create>(json).ok();
        if let Some(room_type) = room_type.and_then(|create| create.content.room_type) {
            let value = bytes_of::<&str>(&room_type.as_str());
            room_types.insert(row.0.value(), &*value)?;
        }
    }
    Ok(())
}
