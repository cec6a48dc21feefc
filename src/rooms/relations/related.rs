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
    },
    store::{Reader, Rows, UserNum},
    users,
};

/// How many children of a kind, or senders of a thread, are read. NOTSPEC: older children do not count.
const MAX_READ: usize = 1000;

/// What one child of an event has to be. An empty list accepts everything.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RelatedBy {
    #[serde(default)]
    pub related_by_rel_types: Vec<String>,
    #[serde(default)]
    pub related_by_senders: Vec<OwnedUserId>,
}

/// Whether `event` has such a child, which no user of `ignored` sent. `rows_read` grows by the rows that this
/// takes.
pub fn accepts(
    r: &impl Reader,
    wanted: &RelatedBy,
    ignored: &BTreeSet<OwnedUserId>,
    event: &StoredEvent,
    rows_read: &mut usize,
) -> Result<bool, Error> {
    if wanted.related_by_rel_types.is_empty() && wanted.related_by_senders.is_empty() {
        return Ok(true);
    }
    let parent = Parent {
        room: event.header.room,
        id: &event.header.id,
    };
    let mut senders = Senders {
        wanted,
        ignored,
        known: BTreeMap::new(),
    };
    for kind in wanted.kinds() {
        let found = match kind {
            Kind::Thread => senders.are_in_thread(r, parent, rows_read)?,
            _ => senders.sent_child(r, parent, kind, rows_read)?,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

impl RelatedBy {
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| {
            let mut rel_types = self.related_by_rel_types.iter();
            self.related_by_rel_types.is_empty()
                || rel_types.any(|rel_type| Kind::of(rel_type) == *kind)
        })
    }

    /// Whether the relation type of a child of this kind is wanted.
    fn accepts_type(&self, r: &impl Reader, kind: Kind, child: &Child) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Content {
            content: Box<RawValue>,
        }
        if kind != Kind::Other || self.related_by_rel_types.is_empty() {
            return Ok(true);
        }
        let content = event::load(r, child.event)?.parse::<Content>()?.content;
        let relation = Relation::of(&content);
        Ok(relation.is_some_and(|it| self.related_by_rel_types.contains(&it.rel_type)))
    }
}

/// The senders of children, and whether each is wanted.
struct Senders<'a> {
    wanted: &'a RelatedBy,
    ignored: &'a BTreeSet<OwnedUserId>,
    known: BTreeMap<UserNum, bool>,
}

impl Senders<'_> {
    fn accept(&mut self, r: &impl Reader, sender: UserNum) -> Result<bool, Error> {
        let wanted = &self.wanted.related_by_senders;
        if wanted.is_empty() && self.ignored.is_empty() {
            return Ok(true);
        }
        if let Some(is_accepted) = self.known.get(&sender) {
            return Ok(*is_accepted);
        }
        let id = users::id_of(r, sender)?;
        let is_accepted =
            (wanted.is_empty() || wanted.contains(&id)) && !self.ignored.contains(&id);
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
        let rows = relations.prefix((parent.room, parent.id, kind as u8))?;
        for row in rows.rev().take(MAX_READ) {
            *rows_read += 1;
            let child = Child::of(row?);
            if self.accept(r, child.sender)? && self.wanted.accepts_type(r, kind, &child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
