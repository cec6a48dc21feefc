//! Filters that select events by what relates to them.
//!
//! NOTSPEC: `related_by_rel_types` and `related_by_senders` are from MSC3440; Synapse serves them, and apps
//! list threads by them.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    index::ALL_SENDERS,
    rows::{Child, Kind, Parent},
};
use crate::{
    protocol::relation::Relation,
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::history_visibility::UserVisibility,
    },
    store::{Place, Reader, Rows, UserNum},
    users,
};

/// How many children of a kind, or senders of a thread, are read. NOTSPEC: older children do not count.
const MAX_READ: usize = 1000;
/// A page ends with the event for which as many relations have been read. Where there are no pages, no more
/// events are accepted.
pub const MAX_RELATIONS: usize = 10_000;

/// What one child of an event has to be. An empty list accepts everything.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RelatedBy {
    #[serde(default)]
    pub related_by_rel_types: Vec<String>,
    #[serde(default)]
    pub related_by_senders: Vec<OwnedUserId>,
}

/// Which children count for a user.
#[derive(Clone, Copy, Debug)]
pub struct VisibleChildren<'a> {
    /// Users whose children do not count.
    pub ignored: &'a BTreeSet<OwnedUserId>,
    /// The place of the last event that the user may see.
    pub upto: Place,
}

impl<'a> VisibleChildren<'a> {
    pub fn new(
        r: &impl Reader,
        ignored: &'a BTreeSet<OwnedUserId>,
        visibility: &UserVisibility,
    ) -> Result<Self, Error> {
        let upto = visibility.last_place(r)?.unwrap_or(Place::MIN);
        Ok(Self { ignored, upto })
    }
}

/// Whether `event` has such a child among the `visible`. `rows_read` grows by the rows that this takes, and for
/// events that are loaded by their size.
pub fn accepts(
    r: &impl Reader,
    wanted: &RelatedBy,
    visible: VisibleChildren<'_>,
    event: &StoredEvent,
    rows_read: &mut usize,
) -> Result<bool, Error> {
    if wanted.is_empty() {
        return Ok(true);
    }
    if *rows_read >= MAX_RELATIONS {
        return Ok(false);
    }
    let parent = Parent {
        room: event.header.room,
        id: &event.header.id,
    };
    let mut senders = Senders {
        wanted,
        visible,
        known: BTreeMap::new(),
    };
    for kind in wanted.kinds() {
        let found = match kind {
            // The senders of a thread have no places.
            Kind::Thread if visible.upto == Place::MAX => {
                senders.are_in_thread(r, parent, rows_read)?
            }
            _ => senders.sent_child(r, parent, kind, rows_read)?,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

impl RelatedBy {
    /// Whether it accepts every event.
    pub fn is_empty(&self) -> bool {
        self.related_by_rel_types.is_empty() && self.related_by_senders.is_empty()
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| {
            let mut rel_types = self.related_by_rel_types.iter();
            self.related_by_rel_types.is_empty()
                || rel_types.any(|rel_type| Kind::of(rel_type) == *kind)
        })
    }

    /// Whether the relation type of a child of this kind is wanted.
    fn accepts_type(
        &self,
        r: &impl Reader,
        kind: Kind,
        child: &Child,
        rows_read: &mut usize,
    ) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Content {
            content: Box<RawValue>,
        }
        if kind != Kind::Other || self.related_by_rel_types.is_empty() {
            return Ok(true);
        }
        let stored = event::load(r, child.event)?;
        *rows_read += 1 + stored.json.len() / 1024;
        let content = stored.parse::<Content>()?.content;
        let relation = Relation::of(&content);
        Ok(relation.is_some_and(|it| self.related_by_rel_types.contains(&it.rel_type)))
    }
}

/// The senders of children, and whether each is wanted.
struct Senders<'a> {
    wanted: &'a RelatedBy,
    visible: VisibleChildren<'a>,
    known: BTreeMap<UserNum, bool>,
}

impl Senders<'_> {
    fn accept(&mut self, r: &impl Reader, sender: UserNum) -> Result<bool, Error> {
        let (wanted, ignored) = (&self.wanted.related_by_senders, self.visible.ignored);
        if wanted.is_empty() && ignored.is_empty() {
            return Ok(true);
        }
        if let Some(is_accepted) = self.known.get(&sender) {
            return Ok(*is_accepted);
        }
        let id = users::id_of(r, sender)?;
        let is_accepted = (wanted.is_empty() || wanted.contains(&id)) && !ignored.contains(&id);
        self.known.insert(sender, is_accepted);
        Ok(is_accepted)
    }

    fn are_in_thread(
        &mut self,
        r: &impl Reader,
        root: Parent<'_>,
        rows_read: &mut usize,
    ) -> Result<bool, Error> {
        let senders = r.thread_senders()?;
        for row in senders.prefix((root.room, root.id))?.take(MAX_READ) {
            *rows_read += 1;
            let (_, _, sender) = row?.0.value();
            if sender != ALL_SENDERS && self.accept(r, sender)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sent_child(
        &mut self,
        r: &impl Reader,
        parent: Parent<'_>,
        kind: Kind,
        rows_read: &mut usize,
    ) -> Result<bool, Error> {
        let relations = r.relations()?;
        let places = ..=self.visible.upto;
        let rows = relations.prefix_range((parent.room, parent.id, kind as u8), places)?;
        for row in rows.rev().take(MAX_READ) {
            *rows_read += 1;
            let child = Child::of(row?);
            if self.accept(r, child.sender)?
                && self.wanted.accepts_type(r, kind, &child, rows_read)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
