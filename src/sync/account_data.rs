//! Account data in a response.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    changes::Changes,
    request::{Request, SyncRange},
};
use crate::{
    rooms::{Error, timeline::filter},
    store::{Reader, RoomNum, UserNum},
    users::account_data,
};

/// The types of the global account data that changed.
pub fn global(
    r: &impl Reader,
    changes: &Changes,
    request: &Request,
    range: SyncRange,
) -> Result<Vec<String>, Error> {
    let user = request.user;
    let mut kinds = match range.since {
        Some(since) if changes.own => {
            let upto = range.end.stored;
            let changed = account_data::changes_between(r, user, since.position, upto)?;
            let global = changed.into_iter();
            let global = global.filter(|(room, _)| *room == account_data::GLOBAL);
            global.map(|(_, kind)| kind).collect()
        }
        Some(_) => Vec::new(),
        None => account_data::kinds_in(r, user, account_data::GLOBAL)?,
    };
    let wanted = &request.filter.account_data;
    kinds.retain(|kind| filter::accepts_type(&wanted.types, &wanted.not_types, kind));
    Ok(kinds)
}

/// The event with the data of type `kind`, of a room or [global](account_data::GLOBAL).
pub fn event(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    kind: &str,
) -> Result<Box<RawValue>, Error> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        content: &'a RawValue,
    }

    let corrupt = |reason| Error::corrupt("account_data", (user, room, kind), reason);
    let data = account_data::load_for_client(r, user, room, kind)?;
    let data = data.ok_or_else(|| corrupt("missing, but logged"))?;
    let event = Event {
        kind,
        content: serde_json::from_str(&data.content).map_err(|_| corrupt("not JSON"))?,
    };
    to_raw_value(&event).map_err(|_| corrupt("not JSON"))
}
