//! Read receipts: [client-server API, "Receipts"].
//!
//! A user has one receipt for each kind and thread. It only moves forward. The key of its row is the
//! kind, a space and the thread, which is empty for an unthreaded receipt, `main`, or the event id of
//! the thread root.
//!
//! [client-server API, "Receipts"]: https://spec.matrix.org/v1.19/client-server-api/#receipts

use ruma::{
    EventId, OwnedEventId, OwnedUserId, UserId,
    events::{
        fully_read::FullyReadEventContent,
        receipt::{ReceiptThread, ReceiptType},
    },
};
use serde::Deserialize;

use crate::{
    rooms::{Error, event, timeline::history_visibility::UserVisibility},
    store::{
        Effect, EventNum, Place, Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::Receipt,
    },
    users::{
        self,
        account_data::{self, FULLY_READ},
    },
};

pub const NO_EVENT: Error = Error::NotFound(
    "the event of the receipt is not in the timeline of this room, or you may not see it",
);

/// The thread of the events outside all threads.
pub const MAIN: &str = "main";

/// The kind and the thread of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptKey {
    /// `m.read` or `m.read.private`.
    pub kind: ReceiptType,
    /// `main`, or the thread root; `None` for an unthreaded receipt, which is for all threads.
    pub thread: Option<String>,
}

impl ReceiptKey {
    /// `None` if `thread` is unknown.
    pub fn new(kind: ReceiptType, thread: &ReceiptThread) -> Option<Self> {
        let thread = match thread {
            ReceiptThread::Unthreaded => None,
            ReceiptThread::Main => Some(MAIN.to_owned()),
            ReceiptThread::Thread(root) => Some(root.to_string()),
            _ => return None,
        };
        Some(Self { kind, thread })
    }

    pub fn thread(&self) -> ReceiptThread {
        let thread = ReceiptThread::try_from(self.thread.as_deref());
        thread.unwrap_or(ReceiptThread::Unthreaded)
    }

    fn to_text(&self) -> String {
        format!(
            "{} {}",
            self.kind,
            self.thread.as_deref().unwrap_or_default()
        )
    }

    fn parse(key: &str) -> Self {
        let (kind, thread) = key.split_once(' ').unwrap_or((key, ""));
        let thread = (!thread.is_empty()).then(|| thread.to_owned());
        Self {
            kind: ReceiptType::from(kind),
            thread,
        }
    }
}

/// A receipt as clients get it.
#[derive(Clone, Debug)]
pub struct ReceiptUpdate {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub key: ReceiptKey,
    /// The user has read up to this event.
    pub event: OwnedEventId,
    pub place: Place,
    /// In milliseconds since the epoch.
    pub ts: u64,
}

impl ReceiptUpdate {
    fn new(
        r: &impl Reader,
        user: UserNum,
        key: ReceiptKey,
        receipt: &Receipt,
    ) -> Result<Self, Error> {
        Ok(Self {
            user,
            user_id: users::id_of(r, user)?,
            key,
            event: event::id(r, receipt.event)?,
            place: receipt.place,
            ts: receipt.ts,
        })
    }
}

/// Moves a receipt of `user` forward to the event `id`; whether it moved.
///
/// # Errors
/// [`Error::NotFound`] if the event is not in the room's timeline, [`Error::Invalid`] if it is
/// not in the thread.
pub fn put(
    tx: &Tx,
    room: RoomNum,
    user: UserNum,
    key: &ReceiptKey,
    id: &EventId,
    ts: u64,
) -> Result<bool, Error> {
    let (event, place) = find(tx, room, id)?;
    if let Some(thread) = &key.thread
        && !is_in_thread(tx, room, event, place, thread)?
    {
        return Err(Error::invalid(format!(
            "thread_id: {id} is not in the thread {thread}"
        )));
    }
    let key = key.to_text();
    let before = tx.receipts()?.load((room, user, key.as_str()))?;
    if before.as_ref().is_some_and(|before| before.place >= place) {
        return Ok(false);
    }
    let position = tx.next_position()?;
    let mut log = tx.receipt_log()?;
    if let Some(before) = before {
        log.remove((room, before.position))?;
    }
    log.insert((room, position), (user, key.as_str()))?;
    drop(log);
    let receipt = Receipt {
        event,
        place,
        ts,
        position,
    };
    tx.receipts()?.put((room, user, key.as_str()), &receipt)?;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(true)
}

/// Moves the fully read marker of `user` forward to the event `id`
/// ([client-server API, "Fully read markers"]).
///
/// # Errors
/// [`Error::NotFound`] if the event is not in the room's timeline.
///
/// [client-server API, "Fully read markers"]: https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers
pub fn put_fully_read(tx: &Tx, room: RoomNum, user: UserNum, id: &EventId) -> Result<(), Error> {
    let (_, place) = find(tx, room, id)?;
    let before = account_data::load(tx, user, room, FULLY_READ)?;
    let before =
        before.and_then(|row| serde_json::from_str::<FullyReadEventContent>(&row.content).ok());
    if let Some(before) = before
        && let Some(event) = event::num_in(tx, room, &before.event_id)?
        && event::header(tx, event)?.place >= Some(place)
    {
        return Ok(());
    }
    let content = serde_json::json!({ "event_id": id }).to_string();
    account_data::put(tx, user, room, FULLY_READ, &content)?;
    Ok(())
}

/// Whether the event is in the room's timeline and the user `viewer` may see it. The answer for others is the
/// same as for those that do not exist: otherwise receipts would tell which events there were before they joined.
pub fn is_visible(
    r: &impl Reader,
    room: RoomNum,
    viewer: &UserId,
    id: &EventId,
) -> Result<bool, Error> {
    let Some((event, _)) = place_of(r, room, id)? else {
        return Ok(false);
    };
    let mut visibility = UserVisibility::new(r, room, viewer)?;
    visibility.can_see(r, event, &event::header(r, event)?)
}

/// The event `id` and its place.
fn find(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<(EventNum, Place), Error> {
    place_of(r, room, id)?.ok_or(NO_EVENT)
}

fn place_of(
    r: &impl Reader,
    room: RoomNum,
    id: &EventId,
) -> Result<Option<(EventNum, Place)>, Error> {
    let event = event::num_in(r, room, id)?;
    let place = match event {
        Some(event) => event::header(r, event)?.place,
        None => None,
    };
    Ok(event.zip(place))
}

/// Whether an event is in `thread`. The root counts as in its thread too, and so do reactions to it and
/// edits of it: clients send a receipt for them if a thread has no replies.
fn is_in_thread(
    r: &impl Reader,
    room: RoomNum,
    event: EventNum,
    place: Place,
    thread: &str,
) -> Result<bool, Error> {
    let row = r.timeline()?.load((room, place))?;
    let root = row.and_then(|row| row.thread);
    if thread == MAIN {
        return Ok(root.is_none());
    }
    let Ok(id) = <&EventId>::try_from(thread) else {
        return Ok(false);
    };
    let Some(thread_root) = event::num_in(r, room, id)? else {
        return Ok(false);
    };
    Ok(root == Some(thread_root) || event == thread_root || relates_to(r, event, id)?)
}

fn relates_to(r: &impl Reader, event: EventNum, id: &EventId) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relation: Relation,
    }
    #[derive(Deserialize)]
    struct Relation {
        event_id: OwnedEventId,
    }
    let parsed = event::load(r, event)?.parse::<Event>();
    Ok(parsed.is_ok_and(|event| event.content.relation.event_id == id))
}

/// The receipts of `user` in `room`.
pub fn of_user(
    r: &impl Reader,
    room: RoomNum,
    user: UserNum,
) -> Result<Vec<(ReceiptKey, Receipt)>, Error> {
    let table = r.receipts()?;
    let rows = table.prefix((room, user))?.map(|row| {
        let (key, receipt) = row?;
        Ok((ReceiptKey::parse(key.value().2), receipt.record(&key)?))
    });
    rows.collect()
}

/// The newest receipts that moved after `after`, up to and including `upto`, at most `limit`. Those of
/// kind `m.read.private` only if they are of `viewer`.
pub fn moved_between(
    r: &impl Reader,
    room: RoomNum,
    after: Position,
    upto: Position,
    viewer: UserNum,
    limit: usize,
) -> Result<Vec<ReceiptUpdate>, Error> {
    let mut updates = Vec::new();
    let receipts = r.receipts()?;
    let log = r.receipt_log()?;
    let first = Position(after.0.saturating_add(1));
    for row in log.prefix_range(room, first..=upto)?.rev() {
        let (_, moved) = row?;
        let (user, key) = moved.value();
        let receipt_key = ReceiptKey::parse(key);
        if receipt_key.kind == ReceiptType::ReadPrivate && user != viewer {
            continue;
        }
        let receipt = receipts.load((room, user, key))?;
        let receipt = receipt
            .ok_or_else(|| Error::corrupt("receipts", (room, user, key), "missing, but logged"))?;
        updates.push(ReceiptUpdate::new(r, user, receipt_key, &receipt)?);
        if updates.len() >= limit {
            break;
        }
    }
    Ok(updates)
}

/// The receipts at and after the place `first`, of the newest `limit`, and those of `viewer` wherever they
/// are.
pub fn at_or_after(
    r: &impl Reader,
    room: RoomNum,
    first: Place,
    upto: Position,
    viewer: UserNum,
    limit: usize,
) -> Result<Vec<ReceiptUpdate>, Error> {
    let mut updates = moved_between(r, room, Position::MIN, upto, viewer, limit)?;
    updates.retain(|update| update.user != viewer && update.place >= first);
    for (key, receipt) in of_user(r, room, viewer)? {
        if receipt.position <= upto {
            updates.push(ReceiptUpdate::new(r, viewer, key, &receipt)?);
        }
    }
    Ok(updates)
}

/// The place up to which `thread`, or [`MAIN`], has been read, by receipts for it or for all threads.
pub fn read_upto(receipts: &[(ReceiptKey, Receipt)], thread: &str) -> Option<Place> {
    let is_for = |key: &ReceiptKey| key.thread.as_deref().is_none_or(|name| name == thread);
    let places = receipts.iter().filter(|(key, _)| is_for(key));
    places.map(|(_, receipt)| receipt.place).max()
}

/// The place up to which all threads have been read, by unthreaded receipts.
pub fn read_upto_anywhere(receipts: &[(ReceiptKey, Receipt)]) -> Option<Place> {
    let places = receipts.iter().filter(|(key, _)| key.thread.is_none());
    places.map(|(_, receipt)| receipt.place).max()
}
