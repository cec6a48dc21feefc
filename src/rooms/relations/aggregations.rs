//! The bundled aggregations of an event: what the server says about its children with it.
//!
//! Source: client-server API, "Aggregations of child events", "Event replacements", "Threading" and
//! "Reference relations".

use ruma::{OwnedEventId, OwnedUserId, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    index::{ALL_SENDERS, sent_by},
    rows::{Child, Kind, Parent},
};
use crate::{
    protocol::relation::Relation,
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::{client_event::Formatter, history_visibility::UserVisibility},
    },
    store::{EventNum, Place, Reader, RoomNum, Rows, UserNum},
    users::{self, account_data::ignored_users::IgnoredUsers},
};

/// How many references of an event its aggregation has, the oldest. NOTSPEC: others are left to
/// `/relations`.
const MAX_REFERENCES: usize = 50;
/// How many edits, or events of a thread, that do not count (of another type, invisible, of ignored
/// users) are skipped to find the newest that does.
const MAX_SKIPPED: usize = 50;
/// How many senders of a thread, or events of a thread up to when the user left, are counted one by
/// one. NOTSPEC: what is beyond counts although it is of ignored users, or does not count.
const MAX_COUNTED: usize = 1000;

/// What one user gets aggregated in one room.
#[derive(Clone, Debug)]
pub struct Aggregator {
    room: RoomNum,
    user: UserNum,
    ignored: IgnoredUsers,
    /// The last place that the user may see; `None` if there is none.
    upto: Option<Place>,
}

/// `m.relations` in the `unsigned` of an event.
#[derive(Serialize)]
struct Aggregations {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    references: Option<References>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replacement: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<Thread>,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: OwnedEventId,
}

#[derive(Serialize)]
struct Thread {
    latest_event: Box<RawValue>,
    count: u32,
    current_user_participated: bool,
}

/// Whether the events of a thread are summarized in its root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Threads {
    Summarize,
    /// In the newest event of a thread, which should be the root of none.
    Leave,
}

/// The fields of an event that decide about its edits.
#[derive(Deserialize)]
struct Editable {
    #[serde(rename = "type")]
    kind: TimelineEventType,
    sender: OwnedUserId,
    content: Box<RawValue>,
}

impl Aggregator {
    /// For the events that `formatter` formats for `user`, who ignores some others.
    pub fn new(
        r: &impl Reader,
        formatter: &Formatter,
        user: UserNum,
        ignored: IgnoredUsers,
    ) -> Result<Self, Error> {
        Ok(Self {
            room: formatter.room(),
            user,
            ignored,
            upto: formatter.visibility.last_place(r)?,
        })
    }

    /// The event in the client format, with its aggregations.
    pub fn format(
        &self,
        r: &impl Reader,
        formatter: &mut Formatter,
        stored: &StoredEvent,
    ) -> Result<Box<RawValue>, Error> {
        self.format_nested(r, formatter, stored, Threads::Summarize)
    }

    fn format_nested(
        &self,
        r: &impl Reader,
        formatter: &mut Formatter,
        stored: &StoredEvent,
        threads: Threads,
    ) -> Result<Box<RawValue>, Error> {
        let parent = Parent {
            room: self.room,
            id: &stored.header.id,
        };
        // NOTSPEC: "State events do not currently receive bundled aggregations."
        if stored.header.state_key.is_some() || !parent.has_children(r)? {
            return formatter.format(r, stored);
        }
        let aggregations = Aggregations {
            references: self.references(r, &mut formatter.visibility, parent)?,
            replacement: self.replacement(r, formatter, parent, stored)?,
            thread: match threads {
                Threads::Summarize => self.thread(r, formatter, parent, stored)?,
                Threads::Leave => None,
            },
        };
        let relations = match &aggregations {
            Aggregations {
                references: None,
                replacement: None,
                thread: None,
            } => None,
            some => Some(
                serde_json::value::to_raw_value(some)
                    .map_err(|_| Error::not_serializable("aggregations"))?,
            ),
        };
        formatter.format_with_relations(r, stored, relations)
    }

    fn references(
        &self,
        r: &impl Reader,
        visibility: &mut UserVisibility,
        parent: Parent<'_>,
    ) -> Result<Option<References>, Error> {
        let mut chunk = Vec::new();
        for child in parent.oldest(r, Kind::Reference, ..=self.upto(), MAX_REFERENCES)? {
            if self.ignores(r, &child)? {
                continue;
            }
            let header = event::header(r, child.event)?;
            if visibility.can_see(r, child.event, &header)? {
                let event_id = event::id(r, child.event)?;
                chunk.push(Reference { event_id });
            }
        }
        Ok((!chunk.is_empty()).then_some(References { chunk }))
    }

    /// The most recent valid edit of `original`, formatted.
    fn replacement(
        &self,
        r: &impl Reader,
        formatter: &mut Formatter,
        parent: Parent<'_>,
        original: &StoredEvent,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let event = original.parse::<Editable>()?;
        let relation = Relation::of(&event.content);
        if original.header.redacted_by.is_some()
            || relation.is_some_and(|it| Kind::of(&it.rel_type) == Kind::Replacement)
            || self.ignored.contains(&event.sender)
        {
            return Ok(None);
        }
        let Some(sender) = users::num_of(r, &event.sender)? else {
            return Ok(None);
        };
        let edits = r.edits()?;
        let edits = edits.prefix((parent.room, parent.id, sender))?;
        for row in edits.rev().take(MAX_SKIPPED) {
            let edit = event::load(r, row?.1.value())?;
            if edit.header.place.is_none_or(|place| place > self.upto()) {
                continue;
            }
            let Some(edit) = formatter.visibility.visible(r, edit)? else {
                continue;
            };
            if is_valid_edit(&edit, &event.kind)? {
                return formatter.format(r, &edit).map(Some);
            }
        }
        Ok(None)
    }

    fn thread(
        &self,
        r: &impl Reader,
        formatter: &mut Formatter,
        parent: Parent<'_>,
        root: &StoredEvent,
    ) -> Result<Option<Thread>, Error> {
        let all = sent_by(r, parent, ALL_SENDERS)?;
        if all == 0 {
            return Ok(None);
        }
        let Some(latest_event) = self.latest(r, formatter, parent)? else {
            return Ok(None);
        };
        Ok(Some(Thread {
            latest_event,
            count: self.count(r, parent, all)?,
            current_user_participated: self.participated(r, root)?,
        }))
    }

    /// The newest event of a thread that the user gets, formatted.
    fn latest(
        &self,
        r: &impl Reader,
        formatter: &mut Formatter,
        parent: Parent<'_>,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let Some(latest) = self.latest_visible(r, &mut formatter.visibility, parent)? else {
            return Ok(None);
        };
        let mut event = event::load(r, latest)?;
        formatter.visibility.redact_if_erased(r, &mut event)?;
        self.format_nested(r, formatter, &event, Threads::Leave)
            .map(Some)
    }

    fn latest_visible(
        &self,
        r: &impl Reader,
        visibility: &mut UserVisibility,
        parent: Parent<'_>,
    ) -> Result<Option<EventNum>, Error> {
        for child in parent.newest(r, Kind::Thread, ..=self.upto(), MAX_SKIPPED)? {
            if self.ignores(r, &child)? {
                continue;
            }
            let header = event::header(r, child.event)?;
            if visibility.can_see(r, child.event, &header)? {
                return Ok(Some(child.event));
            }
        }
        Ok(None)
    }

    /// Whether the user gets an event of the thread of `root`.
    pub(super) fn has_visible_events(
        &self,
        r: &impl Reader,
        visibility: &mut UserVisibility,
        root: &StoredEvent,
    ) -> Result<bool, Error> {
        let parent = Parent {
            room: self.room,
            id: &root.header.id,
        };
        Ok(self.latest_visible(r, visibility, parent)?.is_some())
    }

    /// How many of the `all` events of a thread are not of ignored users.
    fn count(&self, r: &impl Reader, parent: Parent<'_>, all: u32) -> Result<u32, Error> {
        if let Some(upto) = self.upto.filter(|upto| *upto < Place::MAX) {
            let events = parent.newest(r, Kind::Thread, ..=upto, MAX_COUNTED)?;
            let mut count = 0;
            for child in events {
                count += u32::from(!self.ignores(r, &child)?);
            }
            return Ok(count);
        }
        if self.ignored.is_empty() {
            return Ok(all);
        }
        let senders = r.thread_senders()?;
        let mut count = all;
        for row in senders.prefix((parent.room, parent.id))?.take(MAX_COUNTED) {
            let (key, sent) = row?;
            let (_, _, user) = key.value();
            if user != ALL_SENDERS && self.ignores_user(r, user)? {
                count = count.saturating_sub(sent.value());
            }
        }
        Ok(count)
    }

    /// Whether the user sent `root` or an event of its thread.
    pub(super) fn participated(&self, r: &impl Reader, root: &StoredEvent) -> Result<bool, Error> {
        let parent = Parent {
            room: self.room,
            id: &root.header.id,
        };
        if sent_by(r, parent, self.user)? > 0 {
            return Ok(true);
        }
        Ok(users::num_of(r, &root.sender()?)? == Some(self.user))
    }

    /// The last place that the user may see.
    pub fn upto(&self) -> Place {
        self.upto.unwrap_or(Place::MIN)
    }

    fn ignores(&self, r: &impl Reader, child: &Child) -> Result<bool, Error> {
        self.ignores_user(r, child.sender)
    }

    fn ignores_user(&self, r: &impl Reader, user: UserNum) -> Result<bool, Error> {
        if self.ignored.is_empty() {
            return Ok(false);
        }
        Ok(self.ignored.contains(&users::id_of(r, user)?))
    }
}

/// Whether `edit`, by the sender of an event of type `kind`, replaces that event ([client-server API,
/// "Validity of replacement events"]).
///
/// [client-server API, "Validity of replacement events"]: https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events
fn is_valid_edit(edit: &StoredEvent, kind: &TimelineEventType) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct NewContent {
        #[serde(rename = "m.new_content")]
        new_content: Option<serde::de::IgnoredAny>,
    }
    let event = edit.parse::<Editable>()?;
    if edit.header.state_key.is_some() || event.kind != *kind {
        return Ok(false);
    }
    // Of an encrypted event, it is in the payload.
    let has_new_content = || {
        let content = serde_json::from_str::<NewContent>(event.content.get());
        content.is_ok_and(|content| content.new_content.is_some())
    };
    Ok(*kind == TimelineEventType::RoomEncrypted || has_new_content())
}
