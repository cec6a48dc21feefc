//! Filling a gap in a room's timeline with events that came before it.

use std::collections::HashMap;

use ruma::OwnedEventId;

use super::{error::Error, event_source::EventSource, receiver::PduReceiver, room::Room};
use crate::{
    protocol::receive::Received,
    rooms::{
        self,
        event::{self, backfill, outlier, receive},
    },
    store::{EventNum, Place, Tx},
};

/// How often events are decided again because the room has changed meanwhile.
pub(super) const MAX_DECISIONS: usize = 20;

/// The state before those events whose prev_events are missing.
#[derive(Clone, Debug)]
pub(super) enum StateBefore {
    /// By event, as another server claims it.
    Claimed(HashMap<OwnedEventId, Vec<OwnedEventId>>),
    /// The same as after the gap: none of the events is a state event.
    Unchanged,
}

impl<S: EventSource> PduReceiver<S> {
    /// Performs steps 4 to 6 for `events`, which are in topological order and lead to the gap before
    /// the event at `gap`. An event that is invalid in this room is left out, with those that it authorizes.
    /// Whether the gap is another one then.
    pub(super) async fn fill_gap(
        &self,
        room: &Room,
        gap: Place,
        events: Vec<Received>,
        before: StateBefore,
    ) -> Result<bool, Error> {
        let (num, rules) = (room.num, room.rules);
        let _room_lock = self.lock_room(num).await;
        let job = move |tx: &Tx| {
            let mut nums = Vec::new();
            for event in &events {
                match outlier::store(tx, num, rules, event) {
                    Err(error @ (rooms::Error::Invalid(_) | rooms::Error::Missing)) => {
                        let id = event.pdu.event_id();
                        log::debug!("event {id} before a gap is left out: {error}");
                    }
                    stored => nums.push(stored?),
                }
            }
            Ok::<_, rooms::Error>(nums)
        };
        let nums: Vec<EventNum> = self.store().write(job).await?;
        for _ in 0..MAX_DECISIONS {
            let (nums, before) = (nums.clone(), before.clone());
            let decide = move |s: &_| {
                let mut states = HashMap::new();
                for event in &nums {
                    let state = match &before {
                        StateBefore::Unchanged => backfill::state_before_gap_end(s, num, gap)?,
                        StateBefore::Claimed(claimed) => {
                            match claimed.get(&event::id(s, *event)?) {
                                Some(ids) => receive::claimed_state(s, num, ids)?,
                                None => continue,
                            }
                        }
                    };
                    states.insert(*event, state);
                }
                backfill::decide(s, num, gap, &states)
            };
            let chunk = self.store().scan("backfilled events", decide).await?;
            let local = self.local().clone();
            let job = move |tx: &Tx| backfill::commit(tx, &local, &chunk);
            match self.store().write(job).await {
                Err(rooms::Error::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(changed) => return Ok(changed),
            }
        }
        Err(rooms::Error::Stale.into())
    }
}
