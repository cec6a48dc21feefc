//! Storing one event: the rows that every event has, whoever made it.

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;

use super::{Error, event};
use crate::protocol::Pdu;
use crate::store::{
    DeviceNum, Effect, EventNum, NodeNum, Place, Position, Reader, Records, RoomNum, StateKeyNum,
    Tx, UserNum,
    records::{EventHeader, Notified, RoomHot, Status, Thread, TimelineRow},
};

/// How many local writers a room's hot record remembers; the one who wrote longest ago gives way.
const WRITERS: usize = 64;

/// Whom an event notifies.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    /// Whether it notifies under the default rules.
    pub default: bool,
    /// Local members for whom that is not the whole answer.
    pub exceptions: Vec<Exception>,
}

/// What an event means for one user whose rules, or whose mention in it, make a difference.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// The user.
    pub user: UserNum,
    /// Whether it notifies this user.
    pub notify: bool,
    /// Whether it is highlighted for this user.
    pub highlight: bool,
}

/// An event to be stored, decided and complete.
#[derive(Debug)]
pub struct Insert<'a> {
    /// Its event id.
    pub id: &'a EventId,
    /// Its JSON.
    pub json: &'a [u8],
    /// What became of it. Only an accepted event stands in the timeline.
    pub status: Status,
    /// The state before it.
    pub state_before: NodeNum,
    /// Its (type, state key), if it is a state event.
    pub state_key: Option<StateKeyNum>,
    /// Its auth events.
    pub auth: &'a [EventNum],
    /// Its sender, if that is a user of this server.
    pub local_sender: Option<UserNum>,
    /// The device that sent it, with its transaction id.
    pub sent_by: Option<(DeviceNum, String)>,
    /// The root of the thread it is in.
    pub thread: Option<EventNum>,
    /// Whom it notifies.
    pub notify: &'a Notify,
}

/// Stores `new`, at the end of the timeline if it is accepted, and moves `hot` along. The caller
/// stores `hot`, and changes extremities and state.
pub fn insert(
    tx: &Tx,
    room: RoomNum,
    hot: &mut RoomHot,
    new: &Insert<'_>,
) -> Result<(EventNum, Position), Error> {
    let num = tx.next_event();
    let position = tx.next_position()?;
    let place = (new.status == Status::Accepted).then(|| hot.last_place.next());
    let header = EventHeader {
        id: new.id.as_str().to_owned(),
        room,
        status: new.status,
        place,
        position,
        state_before: new.state_before,
        state_key: new.state_key,
        redacted_by: None,
        sent_by: new.sent_by.clone(),
    };
    tx.events()?
        .insert(num, event::row(&header, new.json).as_slice())?;
    tx.event_nums()?.insert(new.id.as_str(), num)?;
    if new.state_key.is_some() {
        let auth: Vec<u8> = new
            .auth
            .iter()
            .flat_map(|num| num.0.to_le_bytes())
            .collect();
        tx.auth()?.insert((room, num), auth.as_slice())?;
    }
    if let Some(place) = place {
        enter_timeline(tx, room, hot, new, (num, position, place))?;
    }
    Ok((num, position))
}

fn enter_timeline(
    tx: &Tx,
    room: RoomNum,
    hot: &mut RoomHot,
    new: &Insert<'_>,
    (event, position, place): (EventNum, Position, Place),
) -> Result<(), Error> {
    hot.notifying += u32::from(new.notify.default);
    hot.notifying_main += u32::from(new.notify.default && new.thread.is_none());
    let thread = match new.thread {
        None => None,
        Some(root) => {
            let mut threads = tx.threads()?;
            let before = threads
                .load((room, root))?
                .map_or(0, |thread| thread.notifying);
            let notifying = before + u32::from(new.notify.default);
            threads.put(
                (room, root),
                &Thread {
                    last_place: place,
                    notifying,
                },
            )?;
            Some((root, notifying))
        }
    };
    let row = TimelineRow {
        event,
        position,
        notifying: hot.notifying,
        notifying_main: hot.notifying_main,
        thread,
    };
    tx.timeline()?.put((room, place), &row)?;
    for exception in &new.notify.exceptions {
        let notify = (exception.notify != new.notify.default).then_some(exception.notify);
        let notified = Notified {
            notify,
            highlight: exception.highlight,
            thread: new.thread,
        };
        tx.notified()?
            .put((exception.user, room, place), &notified)?;
    }
    if let Some(user) = new.local_sender {
        wrote(hot, user, place);
    }
    hot.last_place = place;
    hot.last_position = position;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(())
}

fn wrote(hot: &mut RoomHot, user: UserNum, place: Place) {
    hot.wrote.retain(|(writer, _)| *writer != user);
    if hot.wrote.len() >= WRITERS {
        hot.wrote.remove(0);
    }
    hot.wrote.push((user, place));
}

/// The root of the thread that `pdu` says it is in, if that is an event of the room
/// ([client-server API, "Threading"]).
///
/// [client-server API, "Threading"]: https://spec.matrix.org/v1.19/client-server-api/#threading
pub fn thread_root(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<Option<EventNum>, Error> {
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
    }
    match pdu.content_field::<Relation>("m.relates_to") {
        Some(relation) if relation.rel_type == "m.thread" => {
            event::num_in(r, room, &relation.event_id)
        }
        _ => Ok(None),
    }
}
