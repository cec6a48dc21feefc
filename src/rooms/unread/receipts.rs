//! Read receipts: [client-server API, "Receipts"].
//!
//! A user has one receipt for each kind and thread. It only moves forward. The key of its row is
//! the kind, a blank and the thread: nothing for a receipt without thread, `main`, or the root's
//! event id.
//!
//! [client-server API, "Receipts"]: https://spec.matrix.org/v1.19/client-server-api/#receipts

use ruma::{
    EventId, OwnedEventId, OwnedUserId,
    events::{
        fully_read::FullyReadEventContent,
        receipt::{ReceiptThread, ReceiptType},
    },
};

use crate::{
    rooms::{Error, event},
    store::{
        Effect, EventNum, Place, Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::Receipt,
    },
    users::{self, account_data},
};

/// The thread of everything that is in none.
pub const MAIN: &str = "main";
const FULLY_READ: &str = "m.fully_read";

/// What a receipt is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptKey {
    /// `m.read` or `m.read.private`.
    pub kind: ReceiptType,
    /// `main`, or the root of a thread; none for a receipt that counts for all.
    pub thread: Option<String>,
}

impl ReceiptKey {
    /// What a receipt is of that names `thread`; `None` if that is none.
    pub fn new(kind: ReceiptType, thread: &ReceiptThread) -> Option<Self> {
        let thread = match thread {
            ReceiptThread::Unthreaded => None,
            ReceiptThread::Main => Some(MAIN.to_owned()),
            ReceiptThread::Thread(root) => Some(root.to_string()),
            _ => return None,
        };
        Some(Self { kind, thread })
    }

    /// The thread as a receipt names it.
    pub fn thread(&self) -> ReceiptThread {
        let thread = ReceiptThread::try_from(self.thread.as_deref());
        thread.unwrap_or(ReceiptThread::Unthreaded)
    }

    fn key(&self) -> String {
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

/// A receipt as clients are told of it.
#[derive(Clone, Debug)]
pub struct ReceiptUpdate {
    /// Whose it is.
    pub user: UserNum,
    /// The same, by user id.
    pub user_id: OwnedUserId,
    /// What it is of.
    pub of: ReceiptKey,
    /// The event up to which was read.
    pub event: OwnedEventId,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
}

/// Moves a receipt of `user` to the event `id`, unless it is there or further on already; whether it
/// moved.
///
/// # Errors
/// [`Error::NotFound`] if the event is not in the room's timeline, [`Error::Invalid`] if it is
/// not in the thread.
pub fn put(
    tx: &Tx,
    room: RoomNum,
    user: UserNum,
    of: &ReceiptKey,
    id: &EventId,
    ts: u64,
) -> Result<bool, Error> {
    let (event, place) = read(tx, room, id)?;
    if let Some(thread) = &of.thread
        && !is_in(tx, room, (event, place), thread)?
    {
        return Err(Error::invalid("the event is not in this thread"));
    }
    let key = of.key();
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

/// Moves the fully read marker of `user` to the event `id`, unless it is there or further on
/// already ([client-server API, "Fully read markers"]).
///
/// # Errors
/// [`Error::NotFound`] if the event is not in the room's timeline.
///
/// [client-server API, "Fully read markers"]: https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers
pub fn put_fully_read(tx: &Tx, room: RoomNum, user: UserNum, id: &EventId) -> Result<(), Error> {
    let (_, place) = read(tx, room, id)?;
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

/// The event `id` and its place.
fn read(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<(EventNum, Place), Error> {
    let event = event::num_in(r, room, id)?;
    let place = match event {
        Some(event) => event::header(r, event)?.place,
        None => None,
    };
    event
        .zip(place)
        .ok_or(Error::NotFound("there is no such event to have read"))
}

/// Whether an event is in `thread`: for [`MAIN`] outside all threads, else in the thread of that
/// root, or the root itself, with which clients mark a thread without replies.
fn is_in(
    r: &impl Reader,
    room: RoomNum,
    (event, place): (EventNum, Place),
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
    let of = event::num_in(r, room, id)?;
    Ok(of.is_some() && (of == root || of == Some(event)))
}

/// The receipts of `user` in `room`.
pub fn of_user(
    r: &impl Reader,
    room: RoomNum,
    user: UserNum,
) -> Result<Vec<(ReceiptKey, Receipt)>, Error> {
    let mut found = Vec::new();
    for row in r.receipts()?.range((room, user, "")..)? {
        let (key, receipt) = row?;
        let (of_room, of_user, of) = key.value();
        if (of_room, of_user) != (room, user) {
            break;
        }
        found.push((ReceiptKey::parse(of), receipt.value().unpack()?));
    }
    Ok(found)
}

/// The receipts that moved after `after`, up to and including `upto`, as `viewer` may know of
/// them: private ones are their owner's only. At most `most`, the newest.
pub fn moved_between(
    r: &impl Reader,
    room: RoomNum,
    (after, upto): (Position, Position),
    viewer: UserNum,
    most: usize,
) -> Result<Vec<ReceiptUpdate>, Error> {
    let mut told = Vec::new();
    let receipts = r.receipts()?;
    let log = r.receipt_log()?;
    for row in log
        .range((room, Position(after.0.saturating_add(1)))..=(room, upto))?
        .rev()
    {
        let (_, moved) = row?;
        let (user, key) = moved.value();
        let of = ReceiptKey::parse(key);
        if of.kind == ReceiptType::ReadPrivate && user != viewer {
            continue;
        }
        let receipt = receipts.load((room, user, key))?;
        let receipt = receipt
            .ok_or_else(|| Error::corrupt("receipts", (room, user, key), "missing, but logged"))?;
        told.push(ReceiptUpdate {
            user,
            user_id: users::id_of(r, user)?,
            of,
            event: event::id(r, receipt.event)?,
            ts: receipt.ts,
        });
        if told.len() >= most {
            break;
        }
    }
    Ok(told)
}

/// The place up to which a thread, or [`MAIN`], has been read by receipts in its name, or by those
/// that count for all.
pub fn read_upto(receipts: &[(ReceiptKey, Receipt)], thread: &str) -> Option<Place> {
    let counts = |of: &ReceiptKey| of.thread.as_deref().is_none_or(|name| name == thread);
    let places = receipts.iter().filter(|(of, _)| counts(of));
    places.map(|(_, receipt)| receipt.place).max()
}

/// The place up to which everything has been read, by receipts that count for all.
pub fn read_upto_anywhere(receipts: &[(ReceiptKey, Receipt)]) -> Option<Place> {
    let places = receipts.iter().filter(|(of, _)| of.thread.is_none());
    places.map(|(_, receipt)| receipt.place).max()
}
