//! The threads of a room.
//!
//! Source: client-server API, `GET /rooms/{roomId}/threads`.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedUserId};

use super::aggregations::Aggregator;
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::{filter, history_visibility::UserVisibility},
    },
    store::{Place, Reader, RoomNum, Rows},
};

/// The most rows that are read for one page. If few of them are visible or wanted, the page has fewer
/// threads than its limit.
const MAX_ROWS: usize = 500;

#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub room: RoomNum,
    /// Only threads in which the user participated.
    pub participated: bool,
    /// The last place of the newest event of a thread.
    pub from: Place,
    /// The most threads of the page.
    pub limit: usize,
    /// Users whose threads are left out.
    pub ignored: &'a BTreeSet<OwnedUserId>,
}

/// A page of threads.
#[derive(Debug)]
pub struct Page {
    /// The roots, that of the thread with the newest event first.
    pub roots: Vec<StoredEvent>,
    /// Where the next page begins; `None` if there are no more threads.
    pub end: Option<Place>,
}

/// The next threads whose roots the user may see, with an event that the user may see.
pub fn page(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    aggregator: &Aggregator,
    visibility: &mut UserVisibility,
) -> Result<Page, Error> {
    let mut page = Page {
        roots: Vec::new(),
        end: None,
    };
    let threads = r.thread_list()?;
    let rows = threads.prefix_range(wanted.room, ..=wanted.from)?;
    for (rows_read, row) in rows.rev().enumerate() {
        let (key, root) = row?;
        if page.roots.len() >= wanted.limit || rows_read >= MAX_ROWS {
            page.end = Some(key.value().1);
            break;
        }
        let Ok(root) = <&EventId>::try_from(root.value()) else {
            continue;
        };
        let Some(root) = event::num_in(r, wanted.room, root)? else {
            continue;
        };
        let Some(root) = visibility.visible(r, event::load(r, root)?)? else {
            continue;
        };
        if wanted.participated && !aggregator.participated(r, &root)? {
            continue;
        }
        if filter::is_ignored(wanted.ignored, &root)?
            || !aggregator.has_visible_events(r, visibility, &root)?
        {
            continue;
        }
        page.roots.push(root);
    }
    Ok(page)
}
