//! The rows of `relations`.

use std::ops::RangeBounds;

use crate::{
    rooms::Error,
    store::{EventNum, Place, Reader, RoomNum, Rows, UserNum},
};

/// What a relation type means to this server; in the key of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Reference,
    Replacement,
    Thread,
    Annotation,
    /// Any other relation type.
    Other,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::Reference,
        Self::Replacement,
        Self::Thread,
        Self::Annotation,
        Self::Other,
    ];

    pub(super) fn of(rel_type: &str) -> Self {
        match rel_type {
            "m.reference" => Self::Reference,
            "m.replace" => Self::Replacement,
            "m.thread" => Self::Thread,
            "m.annotation" => Self::Annotation,
            _ => Self::Other,
        }
    }
}

/// A row of `relations`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) place: Place,
    pub(super) event: EventNum,
    pub(super) sender: UserNum,
}

/// Which children of an event are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent<'a> {
    pub(super) room: RoomNum,
    pub(super) id: &'a str,
}

impl Parent<'_> {
    /// Its children of `kind` in `places`, the oldest first. At most `limit`.
    pub(super) fn oldest(
        self,
        r: &impl Reader,
        kind: Kind,
        places: impl RangeBounds<Place>,
        limit: usize,
    ) -> Result<Vec<Child>, Error> {
        let relations = r.relations()?;
        let rows = relations.prefix_range((self.room, self.id, kind as u8), places)?;
        rows.take(limit).map(|row| Ok(Child::of(row?))).collect()
    }

    /// Its children of `kind` in `places`, the newest first. At most `limit`.
    pub(super) fn newest(
        self,
        r: &impl Reader,
        kind: Kind,
        places: impl RangeBounds<Place>,
        limit: usize,
    ) -> Result<Vec<Child>, Error> {
        let relations = r.relations()?;
        let rows = relations.prefix_range((self.room, self.id, kind as u8), places)?;
        rows.rev()
            .take(limit)
            .map(|row| Ok(Child::of(row?)))
            .collect()
    }

    /// Whether it has children.
    pub(super) fn has_children(self, r: &impl Reader) -> Result<bool, Error> {
        let relations = r.relations()?;
        let first = relations.prefix((self.room, self.id))?.next().transpose()?;
        Ok(first.is_some())
    }
}

type Entry<'r> = crate::store::Row<'r, (RoomNum, &'static str, u8, Place), (EventNum, UserNum)>;

impl Child {
    pub(super) fn of((key, value): Entry<'_>) -> Self {
        let (_, _, _, place) = key.value();
        let (event, sender) = value.value();
        Self {
            place,
            event,
            sender,
        }
    }
}
