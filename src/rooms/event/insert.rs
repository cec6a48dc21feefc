//! Storing one event: the rows that every event has, whoever made it.

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;

use crate::{
    protocol::Pdu,
    rooms::{
        Error, event,
        unread::{self, NO_THREAD},
    },
    store::{
        DeviceNum, Effect, EventNum, NodeNum, Place, Position, Reader, Records, RoomNum,
        StateKeyNum, Tx, UserNum,
        records::{Counts, EventHeader, RoomHeads, Status, Thread, TimelineRow},
    },
};

/// How many local writers the record of a room or a thread holds; the one who wrote longest ago
/// gives way to a row of its own.
const WRITERS: usize = 64;

/// Whom an event notifies.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    /// What it means under the default rules.
    pub default: Verdict,
    /// What it means to those to whom it means something else.
    pub exceptions: Vec<(UserNum, Verdict)>,
}

/// What an event means to a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it notifies.
    pub notify: bool,
    /// Whether it is highlighted.
    pub highlight: bool,
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        self.notify += u32::from(verdict.notify);
        self.highlight += u32::from(verdict.highlight);
    }
}

/// An event to be stored, decided and complete.
#[derive(Debug)]
pub struct Insert<'a> {
    /// Its event id.
    pub id: &'a EventId,
    /// Its number, if it was an outlier.
    pub outlier: Option<EventNum>,
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
    /// The user of this server who has read up to here, having written it.
    pub read_by: Option<UserNum>,
    /// The device that sent it, with its transaction id.
    pub sent_by: Option<(DeviceNum, String)>,
    /// The root of the thread it is in.
    pub thread: Option<EventNum>,
    /// Whom it notifies.
    pub notify: &'a Notify,
}

/// Stores `new`, at the end of the timeline if it is accepted, and moves `heads` along. The caller
/// stores `heads`, and changes extremities and state.
pub fn insert(
    tx: &Tx,
    room: RoomNum,
    heads: &mut RoomHeads,
    new: &Insert<'_>,
) -> Result<(EventNum, Position), Error> {
    let position = tx.next_position()?;
    let place = (new.status == Status::Accepted).then(|| heads.last_place.next());
    let num = store(tx, room, new, (position, place))?;
    if let Some(place) = place {
        enter_timeline(tx, room, heads, new, (num, position, place))?;
    }
    Ok((num, position))
}

/// Stores the event itself.
pub(in crate::rooms) fn store(
    tx: &Tx,
    room: RoomNum,
    new: &Insert<'_>,
    (position, place): (Position, Option<Place>),
) -> Result<EventNum, Error> {
    // An outlier may have been redacted already.
    let outlier = new.outlier.map(|num| event::load(tx, num)).transpose()?;
    let num = new.outlier.unwrap_or_else(|| tx.next_event());
    let header = EventHeader {
        id: new.id.as_str().to_owned(),
        room,
        status: new.status,
        place,
        position,
        state_before: new.state_before,
        state_key: new.state_key,
        redacted_by: outlier.as_ref().and_then(|known| known.header.redacted_by),
        sent_by: new.sent_by.clone(),
    };
    let json = outlier.as_ref().map_or(new.json, |known| &known.json);
    tx.events()?
        .insert(num, event::row(&header, json).as_slice())?;
    tx.event_nums()?.insert(new.id.as_str(), num)?;
    if new.state_key.is_some() {
        let auth: Vec<u8> = new
            .auth
            .iter()
            .flat_map(|num| num.0.to_le_bytes())
            .collect();
        tx.auth()?.insert((room, num), auth.as_slice())?;
    }
    Ok(num)
}

fn enter_timeline(
    tx: &Tx,
    room: RoomNum,
    heads: &mut RoomHeads,
    new: &Insert<'_>,
    (event, position, place): (EventNum, Position, Place),
) -> Result<(), Error> {
    match new.thread {
        None => {
            heads.main.add(new.notify.default);
            if let Some(user) = new.read_by {
                set_last_own_event(
                    tx,
                    (room, NO_THREAD),
                    &mut heads.last_own_events,
                    (user, place),
                )?;
            }
        }
        Some(root) => enter_thread(tx, (room, root), new, place)?,
    }
    let row = TimelineRow {
        event,
        position,
        main: heads.main,
        thread: new.thread,
    };
    tx.timeline()?.put((room, place), &row)?;
    for (user, verdict) in &new.notify.exceptions {
        let of = (room, *user, new.thread.unwrap_or(NO_THREAD));
        except(tx, of, place, (*verdict, new.notify.default))?;
    }
    heads.last_place = place;
    heads.last_position = position;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(())
}

fn enter_thread(
    tx: &Tx,
    (room, root): (RoomNum, EventNum),
    new: &Insert<'_>,
    place: Place,
) -> Result<(), Error> {
    let before = tx.threads()?.load((room, root))?;
    if let Some(before) = &before {
        tx.thread_order()?.remove((room, before.last_place))?;
    }
    tx.thread_order()?.insert((room, place), root)?;
    let mut thread = before.unwrap_or(Thread {
        last_place: place,
        counts: Counts::default(),
        last_own_events: Vec::new(),
    });
    thread.last_place = place;
    thread.counts.add(new.notify.default);
    if let Some(user) = new.read_by {
        set_last_own_event(tx, (room, root), &mut thread.last_own_events, (user, place))?;
    }
    tx.thread_timeline()?
        .put((room, root, place), &thread.counts)?;
    tx.threads()?.put((room, root), &thread)?;
    Ok(())
}

/// Notes that a user wrote at `place`, behind all others in `lately`.
fn set_last_own_event(
    tx: &Tx,
    (room, root): (RoomNum, EventNum),
    lately: &mut Vec<(UserNum, Place)>,
    (user, place): (UserNum, Place),
) -> Result<(), Error> {
    lately.retain(|(writer, _)| *writer != user);
    if lately.len() >= WRITERS {
        let (longest_ago, at) = lately.remove(0);
        tx.last_own_event()?.insert((room, root, longest_ago), at)?;
    }
    lately.push((user, place));
    Ok(())
}

/// Notes that the event at `place` means something else to a user than by default.
fn except(
    tx: &Tx,
    (room, user, root): (RoomNum, UserNum, EventNum),
    place: Place,
    (verdict, default): (Verdict, Verdict),
) -> Result<(), Error> {
    let mut upto = unread::notified(tx, room, user, root, place)?;
    upto.notify += i32::from(verdict.notify) - i32::from(default.notify);
    upto.highlight += i32::from(verdict.highlight) - i32::from(default.highlight);
    tx.notified()?.put((room, user, root, place), &upto)?;
    Ok(())
}

/// The root of the thread that `pdu` is in: the one that it says it is in, or the one of the event
/// that it relates to otherwise ([client-server API, "Threading"], "Threaded read receipts").
///
/// [client-server API, "Threading"]: https://spec.matrix.org/v1.19/client-server-api/#threading
pub fn thread_root(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<Option<EventNum>, Error> {
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
    }
    let Some(relation) = pdu.content_field::<Relation>("m.relates_to") else {
        return Ok(None);
    };
    let Some(parent) = event::num_in(r, room, &relation.event_id)? else {
        return Ok(None);
    };
    if relation.rel_type == "m.thread" {
        return Ok(Some(parent));
    }
    // What the parent's parents say was found when it was stored.
    match event::header(r, parent)?.place {
        Some(place) => Ok(r
            .timeline()?
            .load((room, place))?
            .and_then(|row| row.thread)),
        None => Ok(None),
    }
}
