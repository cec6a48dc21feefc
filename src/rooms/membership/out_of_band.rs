//! Invitations to rooms that this server is not in, and knocks on such rooms: how a local user
//! stands to the room, and what the server through which it came shows of it.

use ruma::{CanonicalJsonObject, RoomId, RoomVersionId, UserId};

use crate::{
    protocol::{client_event::StrippedEvent, receive::Received},
    rooms::{Error, event::outlier, room, state::current},
    store::{
        Effect, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::{Membership, OutOfBandMembership},
    },
};

/// How many invitations one user has at most to rooms that this server is not in.
const MOST: usize = 200;
/// How many events of a room are kept to show it, and how many bytes of JSON.
const SHOWN: usize = 32;
const SHOWN_BYTES: usize = 128 * 1024;

/// Notes that a local user was invited to the room `id`, or has knocked on it: by `event`.
///
/// # Errors
/// [`Error::Forbidden`] if the user has too many invitations.
pub fn store(
    tx: &Tx,
    (id, version): (&RoomId, &RoomVersionId),
    (user, membership): (&UserId, Membership),
    event: &Received,
    invitation: &OutOfBandMembership,
) -> Result<(), Error> {
    let room = match room::num(tx, id) {
        Err(Error::UnknownRoom) => room::make(tx, id, version)?,
        room => room?,
    };
    let num: UserNum = tx.user_num(user.as_str())?;
    let rooms = (num, RoomNum::MIN)..=(num, RoomNum::MAX);
    if tx.out_of_band_memberships()?.range(rooms)?.count() >= MOST {
        return Err(Error::forbidden("the user has too many invitations"));
    }
    now_is(tx, room, (user, membership), event)?;
    Ok(tx.out_of_band_memberships()?.put((num, room), invitation)?)
}

/// Notes that a local user is not invited any more, or does not knock any more: by `event`.
pub fn end(tx: &Tx, room: RoomNum, user: &UserId, event: &Received) -> Result<(), Error> {
    now_is(tx, room, (user, Membership::Leave), event)
}

fn now_is(
    tx: &Tx,
    room: RoomNum,
    (user, membership): (&UserId, Membership),
    event: &Received,
) -> Result<(), Error> {
    let num = outlier::store_out_of_band(tx, room, event)?;
    let position = tx.next_position()?;
    current::set_local_membership(tx, room, user, membership, (Some(num), position))?;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(())
}

/// The invitation of `user` to a room that this server is not in.
pub fn load(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<OutOfBandMembership>, Error> {
    Ok(r.out_of_band_memberships()?.load((user, room))?)
}

/// What `server` shows of a room: those of `events` that are state events, as far as there is room
/// for them. What answers a knock is not signed, so it is not known yet to be canonical JSON.
pub fn from_stripped_state<'a>(
    server: &str,
    events: impl IntoIterator<Item = &'a str>,
) -> OutOfBandMembership {
    let mut stripped_state = Vec::new();
    let mut bytes = 0;
    for event in events.into_iter().take(SHOWN) {
        if serde_json::from_str::<CanonicalJsonObject>(event).is_err() {
            continue;
        }
        let stripped = StrippedEvent::new(event.as_bytes());
        if let Ok(json) = stripped.and_then(|event| serde_json::to_string(&event)) {
            bytes += json.len();
            if bytes > SHOWN_BYTES {
                break;
            }
            stripped_state.push(json);
        }
    }
    OutOfBandMembership {
        server: server.to_owned(),
        stripped_state,
    }
}

#[cfg(test)]
mod tests {
    use super::from_stripped_state;

    #[test]
    fn of_what_a_server_shows_only_events_are_taken() {
        let event = |content: &str| {
            format!(
                r#"{{"content":{{"name":{content}}},"sender":"@a:b","state_key":"","type":"m.room.name"}}"#
            )
        };
        let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let contents = [r#""a""#, r#""\ud800""#, "1e400", "1.5", &nested];
        let events = contents.map(event);
        let shown = from_stripped_state("b", events.iter().map(String::as_str));
        assert_eq!(shown.stripped_state, [events[0].clone()]);
    }
}
