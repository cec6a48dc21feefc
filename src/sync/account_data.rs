//! Account data in a response.

use ruma::{events::AnyGlobalAccountDataEvent, serde::Raw};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    changes::Changes,
    request::{Request, SyncRange},
};
use crate::{
    rooms::{Error, timeline::filter},
    store::Reader,
    users::account_data::{self, Changed},
};

/// The global account data that changed.
pub fn global(
    r: &impl Reader,
    changes: &Changes,
    request: &Request,
    range: SyncRange,
) -> Result<Vec<Raw<AnyGlobalAccountDataEvent>>, Error> {
    let changed = match range.since {
        Some(since) if changes.own => {
            account_data::changes_between(r, request.user, since.position, range.end.stored)?
        }
        Some(_) => Vec::new(),
        None => account_data::all_in(r, request.user, account_data::GLOBAL)?,
    };
    let wanted = &request.filter.account_data;
    let is_wanted = |changed: &&Changed| {
        changed.room == account_data::GLOBAL
            && filter::accepts_type(&wanted.types, &wanted.not_types, &changed.kind)
    };
    changed.iter().filter(is_wanted).map(event).collect()
}

pub fn event<T>(changed: &Changed) -> Result<Raw<T>, Error> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        content: &'a RawValue,
    }

    let corrupt = |_| Error::corrupt("account_data", (changed.room, &changed.kind), "not JSON");
    let event = Event {
        kind: &changed.kind,
        content: serde_json::from_str(&changed.data.content).map_err(corrupt)?,
    };
    let event = to_raw_value(&event);
    event.map(Raw::from_json).map_err(corrupt)
}
