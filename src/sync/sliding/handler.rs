//! The loop of a request: look for what the client lacks, respond if there is anything, else wait for it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::presence::PresenceState;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    connection::{self, ReadStates},
    plan::{Plan, Planner},
    request::SlidingSyncRequest,
    response::{Sources, Unwritten, Whole},
    room_list::{RoomList, RoomLists},
    token::Pos,
};
use crate::{
    rooms::{Error, unread::receipts},
    store::{Pieces, Position, Snapshot, Tx, records::SlidingSyncState},
    sync::{
        handler::{Response, SyncHandler},
        request::SyncRange,
        response::Fields,
    },
    users::{self, to_device::PendingMessages},
};

/// So many rooms more than the client has, and so many that changed, are looked through on the thread.
const MAX_ROOMS_ON_THREAD: usize = 64;
/// So often something of a room is compared with a list on the thread.
const MAX_CHECKS_ON_THREAD: usize = 20_000;
/// The updates of so many rooms, of a range of so many positions, are read on the thread.
const MAX_UPDATES_ON_THREAD: usize = 4;
const MAX_POSITIONS_ON_THREAD: u64 = 256;

#[derive(Clone, Copy, Debug)]
pub struct SlidingSyncHandler<'a> {
    pub sync: SyncHandler<'a>,
    pub room_lists: &'a RoomLists,
    pub read_states: &'a ReadStates,
}

pub enum Outcome {
    Response(Response),
    /// The session has ended, as [`users::session_user`] says.
    Ended(users::Error),
    /// The connection has expired, or the token is of another one.
    UnknownPos,
}

impl SlidingSyncHandler<'_> {
    /// Waits at most `timeout` for a change; the first request on a connection does not wait.
    pub async fn sync(
        &self,
        request: SlidingSyncRequest,
        set_presence: &PresenceState,
        timeout: Duration,
    ) -> Result<Outcome, Error> {
        let mut deadline = Instant::now() + timeout;
        let sync = &self.sync;
        let request = Arc::new(request);
        let (user, device) = (request.user, request.device);
        let Some(state) = self.state(&request)? else {
            return Ok(Outcome::UnknownPos);
        };
        sync.note_presence(user, device, set_presence);
        if let Some(to_device) = request.extensions.to_device {
            sync.remove_received(device, &request.user_id, to_device.received)?;
        }
        loop {
            sync.expire();
            // Before the look: a change during it is not missed.
            let change = sync.notifier.subscribe(user);
            if let Err(ended) = sync.store.read(|s| users::session_user(s, device)) {
                return Ok(Outcome::Ended(ended));
            }
            let end = sync.notifier.position();
            let range = SyncRange {
                since: request.since.map(|pos| pos.since(end)),
                end,
                now_ms: sync.clock.now_ms(),
            };
            let mut plan = self.plan(&request, &state, range).await?;
            let messages = self.messages(&request, range)?;
            let mut e2ee = Fields::default();
            if request.extensions.e2ee {
                let lists = sync.device_lists(user, &request.user_id, range).await?;
                if !lists.is_empty() {
                    e2ee.put("device_lists", &lists)?;
                }
            }
            let waits = range.since.is_some();
            let is_fast = is_fast(&plan, range);
            let last_state = request.since.map_or(0, |pos| pos.state);
            let is_changed = !waits
                || plan.next.is_changed
                || connection::is_to_be_refreshed(last_state, range.now_ms);
            let sources = Sources {
                request: request.clone(),
                range,
                progress: (last_state + u64::from(is_changed), end.stored),
            };
            let rooms = std::mem::take(&mut plan.rooms);
            let mut unwritten = Unwritten::new(rooms, sources);
            let mut begun = Vec::new();
            while waits && begun.is_empty() && !unwritten.is_complete() {
                if is_fast {
                    begun = sync.store.read(|s| unwritten.next_piece(s))?;
                } else {
                    (begun, unwritten) = sync.store.scan_piece(unwritten).await?;
                }
            }
            let is_empty = begun.is_empty()
                && plan.account_data.is_empty()
                && plan.typing.is_empty()
                && messages
                    .as_ref()
                    .is_none_or(|pending| pending.messages.is_empty())
                && e2ee.is_empty()
                && !(request.extensions.e2ee && sync.key_counts_changed(device, range)?)
                && !self.has_receipts(&request, &plan, range)?;
            if waits && is_empty && Instant::now() < deadline {
                if !sync.wait(&change, deadline).await {
                    deadline = Instant::now();
                }
                continue;
            }
            if request.extensions.e2ee {
                sync.put_key_counts(device, &mut e2ee)?;
            }
            let state_number = match is_changed {
                true => {
                    let next = Arc::new(plan.next.apply(&state));
                    self.put_state(&request, next).await?
                }
                false => last_state,
            };
            let whole = Whole {
                pos: Pos::new(end, state_number),
                to_device: messages
                    .map(|pending| to_device_json(&pending))
                    .transpose()?,
                e2ee: request
                    .extensions
                    .e2ee
                    .then(|| e2ee.to_json())
                    .transpose()?,
            };
            return self.respond(unwritten, &plan, &whole, begun).await;
        }
    }

    /// What the client has received, up to the token of its request; `None` if that is not known.
    fn state(&self, request: &SlidingSyncRequest) -> Result<Option<Arc<SlidingSyncState>>, Error> {
        let Some(pos) = request.since else {
            return Ok(Some(Arc::default()));
        };
        let notifier = &self.sync.notifier;
        if pos.position > notifier.position().stored || notifier.is_before_restore(pos.position) {
            return Ok(None);
        }
        let (device, now_ms) = (request.device, self.sync.clock.now_ms());
        let (states, connection) = (self.read_states, &request.connection);
        let load = |s: &Snapshot| states.load(s, device, connection, pos.state, now_ms);
        self.sync.store.read(load)
    }

    /// Stores what the client will have received, and returns its number.
    async fn put_state(
        &self,
        request: &SlidingSyncRequest,
        state: Arc<SlidingSyncState>,
    ) -> Result<u64, Error> {
        let (device, connection) = (request.device, request.connection.clone());
        let (after, now_ms) = (request.since.map(|pos| pos.state), self.sync.clock.now_ms());
        let stored = state.clone();
        let put = move |tx: &Tx| connection::put(tx, device, &connection, after, &stored, now_ms);
        // Also on a disk that is almost full: without it nothing could be read. The row is limited in size,
        // and another one is removed for it unless the connection is new.
        let number = self.sync.store.write_shrinking(put).await?;
        self.read_states
            .insert(device, &request.connection, number, state);
        Ok(number)
    }

    async fn plan(
        &self,
        request: &Arc<SlidingSyncRequest>,
        state: &Arc<SlidingSyncState>,
        range: SyncRange,
    ) -> Result<Plan, Error> {
        let (store, notifier) = (self.sync.store, self.sync.notifier);
        let user = request.user;
        let mut list = self.room_lists.take(user);
        let newly = list.upto().and_then(|upto| notifier.rooms_after(upto));
        let changed = range
            .since
            .and_then(|since| notifier.rooms_after(since.position));
        let changed = changed.map(BTreeSet::from_iter);
        let has_few_changes = changed
            .as_ref()
            .is_some_and(|changed| changed.len() <= MAX_ROOMS_ON_THREAD);
        let checks = store.read(|s| {
            let mut checks = request
                .invites
                .globs()
                .saturating_mul(list.special().count());
            for wanted in &request.lists {
                let entries = list.checks(s, &wanted.filters)?;
                checks = checks.saturating_add(wanted.filters.cost().saturating_mul(entries));
            }
            Ok::<_, Error>(checks)
        })?;
        let is_fast = has_few_changes
            && checks <= MAX_CHECKS_ON_THREAD
            && window_size(request, &list) <= state.rooms.len() + MAX_ROOMS_ON_THREAD
            && store.read(|s| list.is_fast(s, request, newly.as_deref(), range.end.stored))?;
        let (request, state) = (request.clone(), state.clone());
        let typing = self.sync.typing.clone();
        let plan = move |s: &Snapshot| {
            list.refresh(s, &request, newly.as_deref(), range.end.stored)?;
            let planner = Planner {
                request: &request,
                state: &state,
                list: &list,
                changed: changed.as_ref(),
                typing: &typing,
                range,
            };
            Ok::<_, Error>((planner.plan(s)?, list))
        };
        let (plan, list) = match is_fast {
            true => store.read(plan)?,
            false => store.scan("rooms of a sliding sync", plan).await?,
        };
        self.room_lists.put(user, list);
        Ok(plan)
    }

    fn messages(
        &self,
        request: &SlidingSyncRequest,
        range: SyncRange,
    ) -> Result<Option<PendingMessages>, Error> {
        let Some(to_device) = request.extensions.to_device else {
            return Ok(None);
        };
        let (device, received) = (request.device, to_device.received);
        let pending = self
            .sync
            .pending_messages(device, received, range, to_device.limit)?;
        Ok(Some(pending))
    }

    /// Whether the response has receipts, or may have.
    fn has_receipts(
        &self,
        request: &SlidingSyncRequest,
        plan: &Plan,
        range: SyncRange,
    ) -> Result<bool, Error> {
        if plan.receipts.len() > MAX_ROOMS_ON_THREAD {
            return Ok(true);
        }
        let (user, end) = (request.user, range.end.stored);
        self.sync.store.read(|s| {
            for (room, since) in &plan.receipts {
                let Some(since) = *since else {
                    return Ok(true);
                };
                if !receipts::moved_between(s, *room, since, end, user, 1)?.is_empty() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    async fn respond(
        &self,
        mut unwritten: Unwritten,
        plan: &Plan,
        whole: &Whole,
        begun: Vec<u8>,
    ) -> Result<Outcome, Error> {
        let store = self.sync.store;
        let is_short = unwritten.is_complete()
            && plan.account_data.is_empty()
            && plan.receipts.len() <= MAX_UPDATES_ON_THREAD
            && plan.receipts.iter().all(|(_, since)| since.is_some());
        store.read(|s| unwritten.enclose(s, plan, whole, begun))?;
        if is_short {
            let first = store.read(|s| unwritten.next_piece(s))?;
            let response = store.continue_pieces(first, unwritten);
            return Ok(Outcome::Response(Box::pin(response)));
        }
        let response = store.scan_pieces(unwritten).await?;
        Ok(Outcome::Response(Box::pin(response)))
    }
}

/// At most how many rooms are in the windows.
fn window_size(request: &SlidingSyncRequest, list: &RoomList) -> usize {
    let rooms = list.entries().len();
    let of_list = |ranges: &Option<Vec<(u64, u64)>>| {
        let ranges = ranges.iter().flatten();
        let size = |(first, last): &(u64, u64)| last.saturating_sub(*first).saturating_add(1);
        ranges.map(size).fold(0, u64::saturating_add)
    };
    let sizes = request.lists.iter().map(|list| match &list.ranges {
        Some(_) => usize::try_from(of_list(&list.ranges))
            .unwrap_or(rooms)
            .min(rooms),
        None => rooms,
    });
    sizes.max().unwrap_or(0)
}

/// Whether the updates of the rooms are read fast enough to be read on the thread.
fn is_fast(plan: &Plan, range: SyncRange) -> bool {
    let end = range.end.stored;
    let is_fast = |since: Option<Position>| {
        since.is_some_and(|since| end.0.saturating_sub(since.0) <= MAX_POSITIONS_ON_THREAD)
    };
    plan.rooms.len() <= MAX_UPDATES_ON_THREAD
        && plan
            .rooms
            .iter()
            .all(|room| is_fast(room.since) && room.expanded_from.is_none())
}

fn to_device_json(pending: &PendingMessages) -> Result<Box<RawValue>, Error> {
    #[derive(Serialize)]
    struct ToDevice<'a> {
        next_batch: String,
        events: &'a [Box<RawValue>],
    }
    let to_device = ToDevice {
        next_batch: pending.upto.0.to_string(),
        events: &pending.messages,
    };
    to_raw_value(&to_device).map_err(|_| Error::not_serializable("to-device messages"))
}
