//! Paging through the children of an event.
//!
//! Source: client-server API, "Relationships API".

use std::collections::BTreeSet;

use ruma::{EventId, OwnedUserId, api::Direction, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rows::{Child, Kind, Parent};
use crate::{
    protocol::relation::Relation,
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::{filter, history_visibility::UserVisibility},
    },
    store::{EventNum, Place, Reader, RoomNum},
};

/// How many levels of relations are followed.
pub const MAX_DEPTH: u8 = 3;
/// The most rows that are read for one page. If few of them are visible or wanted, the page has fewer
/// events than its limit.
const MAX_ROWS: usize = 1000;
/// The most rows that are read to find indirect relations. NOTSPEC: the older ones of a level beyond that
/// are left out.
const MAX_INDIRECT_ROWS: usize = 3000;
/// A page ends with the event by which its events have more bytes.
const MAX_BYTES: usize = 512 * 1024;

/// Which children are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub room: RoomNum,
    /// The event id of the parent.
    pub parent: &'a str,
    pub rel_type: Option<&'a str>,
    pub event_type: Option<&'a TimelineEventType>,
    /// Whether the children of children are.
    pub recurse: bool,
    /// The point to start from: after this place.
    pub from: Place,
    /// The point to stop at: after this place.
    pub to: Option<Place>,
    pub dir: Direction,
    /// The most events of the page.
    pub limit: usize,
    /// Users whose events are left out.
    pub ignored: &'a BTreeSet<OwnedUserId>,
}

/// A page of children.
#[derive(Debug)]
pub struct Page {
    /// In the direction of the request.
    pub events: Vec<StoredEvent>,
    /// The point at which the next page begins; `None` if there are no more events.
    pub end: Option<Place>,
}

/// The next children that the user may see.
pub fn page(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    visibility: &mut UserVisibility,
) -> Result<Page, Error> {
    let mut rows = if wanted.recurse {
        wanted.descendants(r)?
    } else {
        wanted.children(r, wanted.parent)?
    };
    let is_complete = rows.len() <= MAX_ROWS;
    rows.truncate(MAX_ROWS);
    let mut page = Page {
        events: Vec::new(),
        end: None,
    };
    let mut bytes = 0;
    let mut point = wanted.from;
    for row in &rows {
        if page.events.len() >= wanted.limit || bytes >= MAX_BYTES {
            page.end = Some(point);
            return Ok(page);
        }
        point = match wanted.dir {
            Direction::Backward => Place(row.place.0.saturating_sub(1)),
            Direction::Forward => row.place,
        };
        let stored = event::load(r, row.event)?;
        if wanted.accepts(&stored)? && !filter::is_left_out(r, wanted.ignored, &stored)? {
            let visible = visibility.visible(r, stored)?;
            bytes += visible.as_ref().map_or(0, |event| event.json.len());
            page.events.extend(visible);
        }
    }
    page.end = (!is_complete).then_some(point);
    Ok(page)
}

impl Wanted<'_> {
    /// The children of `parent` within the request, in its direction; one more than [`MAX_ROWS`] if there
    /// are more.
    fn children(&self, r: &impl Reader, parent: &str) -> Result<Vec<Child>, Error> {
        let parent = Parent {
            room: self.room,
            id: parent,
        };
        let mut children = Vec::new();
        for kind in self.kinds(r, parent)? {
            children.extend(self.children_of_kind(r, parent, kind)?);
        }
        self.order(&mut children);
        children.truncate(MAX_ROWS + 1);
        Ok(children)
    }

    fn children_of_kind(
        &self,
        r: &impl Reader,
        parent: Parent<'_>,
        kind: Kind,
    ) -> Result<Vec<Child>, Error> {
        match self.dir {
            Direction::Backward => {
                let first = self.to.map_or(Place::MIN, Place::next);
                parent.newest(r, kind, first..=self.from, MAX_ROWS + 1)
            }
            Direction::Forward => {
                let last = self.to.unwrap_or(Place::MAX);
                parent.oldest(r, kind, self.from.next()..=last, MAX_ROWS + 1)
            }
        }
    }

    /// The events that relate to the parent, directly or over others, within the request and in its direction.
    /// The wanted types say nothing about the events on the way.
    fn descendants(&self, r: &impl Reader) -> Result<Vec<Child>, Error> {
        let mut found: Vec<Child> = Vec::new();
        let mut seen: BTreeSet<EventNum> = BTreeSet::new();
        let mut level = vec![self.parent.to_owned()];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for id in &level {
                let parent = Parent {
                    room: self.room,
                    id,
                };
                for kind in kinds_of(r, parent)? {
                    let left = MAX_INDIRECT_ROWS.saturating_sub(seen.len());
                    for child in parent.newest(r, kind, .., left)? {
                        if seen.insert(child.event) {
                            next.push(event::header(r, child.event)?.id);
                            found.push(child);
                        }
                    }
                }
            }
            level = next;
        }
        found.retain(|child| self.is_within(child.place));
        self.order(&mut found);
        Ok(found)
    }

    fn kinds(&self, r: &impl Reader, parent: Parent<'_>) -> Result<Vec<Kind>, Error> {
        let mut kinds = kinds_of(r, parent)?;
        if let Some(rel_type) = self.rel_type {
            kinds.retain(|kind| *kind == Kind::of(rel_type));
        }
        Ok(kinds)
    }

    fn order(&self, children: &mut [Child]) {
        children.sort_by_key(|child| child.place);
        if self.dir == Direction::Backward {
            children.reverse();
        }
    }

    fn is_within(&self, place: Place) -> bool {
        match self.dir {
            Direction::Backward => place <= self.from && self.to.is_none_or(|to| place > to),
            Direction::Forward => place > self.from && self.to.is_none_or(|to| place <= to),
        }
    }

    /// Whether the event has the types that are wanted.
    fn accepts(&self, stored: &StoredEvent) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type")]
            kind: TimelineEventType,
            content: Box<RawValue>,
        }
        if self.rel_type.is_none() && self.event_type.is_none() {
            return Ok(true);
        }
        let event = stored.parse::<Typed>()?;
        let relation = Relation::of(&event.content);
        let has_rel_type = self
            .rel_type
            .is_none_or(|wanted| relation.is_some_and(|it| it.rel_type == wanted));
        Ok(has_rel_type && self.event_type.is_none_or(|wanted| event.kind == *wanted))
    }
}

/// The kinds of children of `parent` that clients get: edits have the content of the event that they replace,
/// so those of a redacted one are left out.
fn kinds_of(r: &impl Reader, parent: Parent<'_>) -> Result<Vec<Kind>, Error> {
    let mut kinds = Kind::ALL.to_vec();
    let id = <&EventId>::try_from(parent.id).ok();
    let num = id.map(|id| event::num_in(r, parent.room, id)).transpose()?;
    if let Some(num) = num.flatten()
        && event::header(r, num)?.redacted_by.is_some()
    {
        kinds.retain(|kind| *kind != Kind::Replacement);
    }
    Ok(kinds)
}
