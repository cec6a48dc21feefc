//! Out-of-band memberships: invites to, and knocks on, rooms that this server is not in. All that is
//! known of such a room is the stripped state that came with the event.

use std::collections::BTreeSet;

use ruma::{
    CanonicalJsonObject, RoomId, RoomVersionId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};

use super::{invitation_limits, stripped_state::MAX_STRIPPED_BYTES};
use crate::{
    protocol::{Pdu, client_event::StrippedEvent, depth::is_too_deep, receive::Received},
    rooms::{
        Error,
        deletion::pending,
        event::{self, outlier},
        room, servers,
        state::current,
    },
    store::{
        Effect, Reader, Records, RoomNum, Tx, UserNum,
        records::{Membership, OutOfBandMembership},
    },
};

/// The most events of stripped state that are kept of a room.
const MAX_STRIPPED_EVENTS: usize = 32;

/// Whether the state of the room that is stored here is its current state for `user`: a local user is
/// joined; or no user of any server is, and no other server says otherwise by an invitation of `user`.
pub fn is_resident(r: &impl Reader, room_id: &RoomId, user: UserNum) -> Result<bool, Error> {
    let room = match room::num(r, room_id) {
        Err(Error::UnknownRoom) => return Ok(false),
        room => room?,
    };
    if room::heads(r, room)?.extremities.is_empty() {
        return Ok(false);
    }
    let is_empty =
        || Ok::<_, Error>(!servers::is_shared(r, room)? && load(r, user, room)?.is_none());
    Ok(current::has_joined(r, room)? || is_empty()?)
}

/// Stores an invite for a local user, or a knock by one, on the room `room_id`. If a local user has
/// joined meanwhile, nothing happens: the event arrives in a transaction too.
///
/// # Errors
/// [`Error::Forbidden`] if there are too many: [`invitation_limits`]; or if the room is being deleted.
pub fn store(
    tx: &Tx,
    room_id: &RoomId,
    event: &Received,
    row: &OutOfBandMembership,
) -> Result<(), Error> {
    pending::check(tx, room_id)?;
    let room = match room::num(tx, room_id) {
        Err(Error::UnknownRoom) => room::create(tx, room_id, &version(row)?)?,
        room => room?,
    };
    if current::has_joined(tx, room)? {
        return Ok(());
    }
    let user = target(event)?;
    let user_num: UserNum = tx.user_num(user.as_str())?;
    invitation_limits::make_space(tx, (user_num, user), room, &row.server, event)?;
    let membership = event.pdu.membership();
    let membership = membership.as_ref().map_or(Membership::Leave, Into::into);
    set_membership(tx, room, membership, event)?;
    Ok(tx.out_of_band_memberships()?.put((user_num, room), row)?)
}

/// Ends an out-of-band membership by `event`: the user rejects the invite or takes the knock back,
/// or is refused. Returns whether there was one: if not, the membership is another now, and stays.
pub fn end(tx: &Tx, room: RoomNum, event: &Received) -> Result<bool, Error> {
    let user = tx.user_num(target(event)?.as_str())?;
    if load(tx, user, room)?.is_none() {
        return Ok(false);
    }
    set_membership(tx, room, Membership::Leave, event)?;
    Ok(true)
}

/// The invite or knock event of a membership, and the rules of its room version.
pub fn load_event(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    row: &OutOfBandMembership,
) -> Result<(Pdu, &'static RoomVersionRules), Error> {
    let rules = room::rules_of(&version(row)?)?;
    let membership = r.memberships()?.load((user, room))?.ok_or(Error::Stale)?;
    let event = event::load(r, membership.event)?.pdu(rules)?;
    Ok((event, rules))
}

fn set_membership(
    tx: &Tx,
    room: RoomNum,
    membership: Membership,
    event: &Received,
) -> Result<(), Error> {
    let num = outlier::store_out_of_band(tx, room, event)?;
    let position = tx.next_position()?;
    event::set_local_membership(tx, room, target(event)?, membership, Some(num), position)?;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(())
}

/// The user whose membership `event` changes.
fn target(event: &Received) -> Result<&UserId, Error> {
    let user = event.pdu.state_key().map(<&UserId>::try_from);
    user.and_then(Result::ok)
        .ok_or_else(|| Error::invalid("state_key: expected a user id in a membership event"))
}

/// The out-of-band membership of `user` in `room`.
pub fn load(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<OutOfBandMembership>, Error> {
    Ok(r.out_of_band_memberships()?.load((user, room))?)
}

/// The room versions of the out-of-band memberships in `room`. They can differ: each server names
/// what it likes.
pub fn versions(r: &impl Reader, room: RoomNum) -> Result<BTreeSet<RoomVersionId>, Error> {
    let mut versions = BTreeSet::new();
    for (user, _) in current::local_members(r, room)? {
        if let Some(row) = load(r, user, room)? {
            versions.insert(version(&row)?);
        }
    }
    Ok(versions)
}

/// The room version according to the server through which the membership came.
pub fn version(row: &OutOfBandMembership) -> Result<RoomVersionId, Error> {
    RoomVersionId::try_from(&*row.version).map_err(|_| {
        let server = &row.server;
        Error::corrupt("out_of_band_memberships", server, "not a room version")
    })
}

/// The record of a membership that came through `server`, with the state events among `events` as
/// stripped state, without those that are beyond the limits. The events that come with the response to a knock are not
/// signed, so they need not be canonical JSON.
pub fn from_stripped_state<'a>(
    server: &ServerName,
    version: &RoomVersionId,
    events: impl IntoIterator<Item = &'a str>,
) -> OutOfBandMembership {
    let mut stripped_state = Vec::new();
    let mut bytes = 0;
    for event in events.into_iter().take(MAX_STRIPPED_EVENTS) {
        let is_canonical = serde_json::from_str::<CanonicalJsonObject>(event).is_ok();
        if !is_canonical || is_too_deep(event.as_bytes()) {
            continue;
        }
        let stripped = StrippedEvent::new(event.as_bytes());
        if let Ok(json) = stripped.and_then(|event| serde_json::to_string(&event))
            && bytes + json.len() <= MAX_STRIPPED_BYTES
        {
            bytes += json.len();
            stripped_state.push(json);
        }
    }
    OutOfBandMembership {
        server: server.to_string(),
        version: version.to_string(),
        stripped_state,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, server_name};

    use super::{MAX_STRIPPED_BYTES, MAX_STRIPPED_EVENTS, from_stripped_state};

    #[test]
    fn stripped_state_has_a_limited_number_of_events_and_of_bytes() {
        let event = |bytes: usize| {
            let name = "x".repeat(bytes);
            format!(
                r#"{{"content":{{"name":"{name}"}},"sender":"@a:b","state_key":"","type":"m.room.name"}}"#
            )
        };
        let kept = |event: &str, count: usize| {
            let events = std::iter::repeat_n(event, count);
            let row = from_stripped_state(server_name!("b"), &RoomVersionId::V11, events);
            row.stripped_state.len()
        };
        assert_eq!(
            kept(&event(1), MAX_STRIPPED_EVENTS + 1),
            MAX_STRIPPED_EVENTS
        );
        let tenth = MAX_STRIPPED_BYTES / 10;
        let tenth = event(tenth - event(0).len());
        assert_eq!(kept(&tenth, 11), 10);
        // The row is read when a client syncs.
        assert_eq!(kept(&event(1024), MAX_STRIPPED_EVENTS), 22);
    }

    #[test]
    fn stripped_state_that_is_not_canonical_json_or_too_deep_is_dropped() {
        let event = |content: &str| {
            format!(
                r#"{{"content":{{"name":{content}}},"sender":"@a:b","state_key":"","type":"m.room.name"}}"#
            )
        };
        let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let deep = format!("{}{}", "[".repeat(99), "]".repeat(99));
        let contents = [r#""a""#, r#""\ud800""#, "1e400", "1.5", &nested, &deep];
        let events = contents.map(event);
        let events_json = events.iter().map(String::as_str);
        let row = from_stripped_state(server_name!("b"), &RoomVersionId::V11, events_json);
        assert_eq!(row.stripped_state, [events[0].clone()]);
    }
}
