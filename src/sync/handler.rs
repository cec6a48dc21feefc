//! The loop of `/sync`: look for changes, respond if there are any, else wait for one.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedUserId, presence::PresenceState};
use smol::{Timer, channel::Receiver, future, stream::Stream};

use super::{
    account_data,
    changes::Changes,
    device_lists::{self, DeviceLists},
    notifier::Notifier,
    presence,
    presence_announcer::PresenceAnnouncer,
    request::{Request, SyncRange},
    response::{Fields, Sources, Unwritten},
    rooms::{self, Candidate},
    shared_rooms::DeviceListQuery,
};
use crate::{
    clock::Clock,
    federation::Federation,
    rooms::{Error, Local, state::current, typing::Typing},
    stop::Stopping,
    store::{DeviceNum, Pieces, Position, Snapshot, Store, Tx, UserNum, records::Membership},
    users::{
        self,
        keys::one_time_keys,
        presence::Presence,
        to_device::{self, MAX_SYNC_MESSAGES, PendingMessages},
    },
};

/// The JSON of a response, in pieces.
pub type Response = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>>;

/// What `/sync` reads from.
#[derive(Clone, Copy, Debug)]
pub struct SyncHandler<'a> {
    pub store: &'a Store,
    pub local: &'a Local,
    pub clock: &'a Clock,
    pub notifier: &'a Arc<Notifier>,
    pub typing: &'a Arc<Typing>,
    pub presence: &'a Arc<Presence>,
    pub federation: &'a Arc<Federation>,
    pub stopping: &'a Stopping,
}

/// What may have changed.
struct Look {
    candidates: Vec<Candidate>,
    /// The types of global account data.
    account_data: Vec<String>,
    /// What else changed beside rooms.
    fields: Fields,
}

impl SyncHandler<'_> {
    /// Waits at most `timeout` for a change; an initial sync, or one for the full state, does not wait.
    /// The inner error is that of [`users::session_user`]: the session has ended.
    pub async fn sync(
        &self,
        request: Request,
        set_presence: &PresenceState,
        timeout: Duration,
    ) -> Result<Result<Response, users::Error>, Error> {
        let mut deadline = Instant::now() + timeout;
        let request = Arc::new(request);
        let (user, device) = (request.user, request.device);
        self.note_presence(user, device, set_presence);
        let received = request.since.map_or(Position::MIN, |since| since.to_device);
        self.remove_received(device, &request.user_id, received)?;
        loop {
            self.expire();
            // Before the look: a change during it is not missed.
            let change = self.notifier.subscribe(user);
            if let Err(ended) = self.store.read(|s| users::session_user(s, device)) {
                return Ok(Err(ended));
            }
            let range = request.range(self.notifier.position(), self.clock.now_ms());
            let Look {
                candidates,
                account_data,
                mut fields,
            } = self.look(&request, range).await?;
            let lists = self.device_lists(user, &request.user_id, range).await?;
            if !lists.is_empty() {
                fields.put("device_lists", &lists)?;
            }
            let pending = self.pending_messages(device, received, range, MAX_SYNC_MESSAGES)?;
            fields.put_events("to_device", &pending.messages)?;
            let next_batch = range.end.token(pending.upto);
            let is_fast = rooms::is_fast(&candidates, &request.filter.room, range);
            let sources = Sources {
                typing: self.typing.clone(),
                request: request.clone(),
                range,
            };
            let mut unwritten = Unwritten::new(candidates, sources);
            let mut begun = Vec::new();
            let waits = range.since.is_some() && !request.full_state;
            while waits && begun.is_empty() && !unwritten.is_complete() {
                if is_fast {
                    begun = self.store.read(|s| unwritten.next_piece(s))?;
                } else {
                    (begun, unwritten) = self.store.scan_piece(unwritten).await?;
                }
            }
            let is_empty = begun.is_empty()
                && account_data.is_empty()
                && fields.is_empty()
                && !self.key_counts_changed(device, range)?;
            if !waits || !is_empty || Instant::now() >= deadline {
                self.put_key_counts(device, &mut fields)?;
                let is_short = waits && unwritten.is_complete() && account_data.is_empty();
                unwritten.enclose(next_batch, account_data, &fields, begun);
                if is_short {
                    let first = self.store.read(|s| unwritten.next_piece(s))?;
                    let response = self.store.continue_pieces(first, unwritten);
                    return Ok(Ok(Box::pin(response)));
                }
                let response = self.store.scan_pieces(unwritten).await?;
                return Ok(Ok(Box::pin(response)));
            }
            if !self.wait(&change, deadline).await {
                deadline = Instant::now();
            }
        }
    }

    /// Waits for a change or until it is time to look again; `false` if the server stops.
    pub(super) async fn wait(&self, change: &Receiver<()>, deadline: Instant) -> bool {
        let changed = async {
            let _ = change.recv().await;
            true
        };
        let timer = async {
            Timer::at(self.next_look(deadline)).await;
            true
        };
        let stopping = async {
            self.stopping.wait().await;
            false
        };
        future::or(future::or(changed, timer), stopping).await
    }

    pub(super) fn note_presence(
        &self,
        user: UserNum,
        device: DeviceNum,
        set_presence: &PresenceState,
    ) {
        let now_ms = self.clock.now_ms();
        if self.presence.synced(user, device, set_presence, now_ms) {
            self.presence_changed(vec![user]);
        }
    }

    /// At most `limit` to-device messages after `received`.
    pub(super) fn pending_messages(
        &self,
        device: DeviceNum,
        received: Position,
        range: SyncRange,
        limit: usize,
    ) -> Result<PendingMessages, Error> {
        let end = range.end.stored;
        let pending = |s: &Snapshot| to_device::pending(s, device, received, end, limit);
        Ok(self.store.read(pending)?)
    }

    /// Removes to-device messages that the device has received, as its token says.
    pub(super) fn remove_received(
        &self,
        device: DeviceNum,
        user: &OwnedUserId,
        received: Position,
    ) -> Result<(), Error> {
        let pending = |s: &Snapshot| to_device::has_pending_until(s, device, received);
        if self.store.read(pending)? {
            let (store, user) = (self.store.clone(), user.clone());
            self.federation.spawn(async move {
                let job = move |tx: &Tx| to_device::remove_until(tx, device, received);
                if let Err(error) = store.write_deferred(job).await {
                    log::debug!(
                        "to-device messages that {user} received stay until the device syncs again: {error}"
                    );
                }
            });
        }
        Ok(())
    }

    async fn look(&self, request: &Arc<Request>, range: SyncRange) -> Result<Look, Error> {
        let changes = Changes::since(self.notifier, self.typing, self.presence, request, range);
        let are_few = self.store.read(|s| changes.are_few(s, request.user))?;
        let (request, presence) = (request.clone(), self.presence.clone());
        let look = move |s: &Snapshot| {
            let candidates = rooms::candidates(s, &changes, &request, range)?;
            let account_data = account_data::global(s, &changes, &request, range)?;
            let mut fields = Fields::default();
            let changed = changes.presence;
            let presence = presence::events(s, &presence, changed, &request, range, &candidates)?;
            fields.put_events("presence", &presence)?;
            Ok(Look {
                candidates,
                account_data,
                fields,
            })
        };
        match are_few {
            true => self.store.read(look),
            false => self.store.scan("changes for a sync", look).await,
        }
    }

    /// Empty in an initial sync, after which a client queries the devices of everybody.
    pub(super) async fn device_lists(
        &self,
        user: UserNum,
        user_id: &OwnedUserId,
        range: SyncRange,
    ) -> Result<DeviceLists, Error> {
        let Some(since) = range.since else {
            return Ok(DeviceLists::default());
        };
        let query = DeviceListQuery {
            user,
            user_id: user_id.clone(),
            after: since.position,
            upto: range.end.stored,
        };
        device_lists::changes(self.store, self.notifier, query).await
    }

    pub(super) fn key_counts_changed(
        &self,
        device: DeviceNum,
        range: SyncRange,
    ) -> Result<bool, Error> {
        let since = range.since.map_or(Position::MIN, |since| since.position);
        let changed = |s: &Snapshot| one_time_keys::counts_changed_after(s, device, since);
        Ok(self.store.read(changed)?)
    }

    /// They are in every response: some clients take a missing count for an unchanged one.
    pub(super) fn put_key_counts(
        &self,
        device: DeviceNum,
        fields: &mut Fields,
    ) -> Result<(), Error> {
        let keys = self.store.read(|s| one_time_keys::counts(s, device))?;
        fields.put("device_one_time_keys_count", &keys.counts)?;
        fields.put("device_unused_fallback_key_types", &keys.unused_fallback)
    }

    /// Ends typing that has timed out or whose user has left, and the presence of silent devices.
    pub(super) fn expire(&self) {
        let now_ms = self.clock.now_ms();
        let position = self.notifier.position().stored;
        // Memberships are read once for each change of a room, not for each sync.
        let moved = self
            .notifier
            .rooms_after(self.typing.checked_until(position))
            .map(BTreeSet::from_iter);
        let changed = self.store.read(|s| {
            self.typing.expire(now_ms, |room, user| {
                if moved.as_ref().is_some_and(|rooms| !rooms.contains(&room)) {
                    return true;
                }
                let membership = users::id_of(s, user)
                    .map_err(Error::from)
                    .and_then(|user| current::membership(s, room, &user));
                membership.map_or(true, |membership| membership == Membership::Join)
            })
        });
        for room in changed {
            let number = self.notifier.ephemeral_changed_in(room);
            self.typing.changed(room, number);
        }
        self.presence_changed(self.presence.expire(now_ms));
    }

    /// When to look again although nothing is stored: at the deadline, or when typing or presence
    /// expires.
    fn next_look(&self, deadline: Instant) -> Instant {
        let expiries = [self.typing.next_expiry(), self.presence.next_expiry()];
        match expiries.into_iter().flatten().min() {
            Some(expiry_ms) => {
                let left_ms = expiry_ms.saturating_sub(self.clock.now_ms()).max(1);
                deadline.min(Instant::now() + Duration::from_millis(left_ms))
            }
            None => deadline,
        }
    }

    /// Puts the changed presence of `users` into later responses. A task announces it.
    pub fn presence_changed(&self, users: Vec<UserNum>) {
        if users.is_empty() {
            return;
        }
        let number = self.notifier.ephemeral_changed_for(users.iter().copied());
        for user in &users {
            self.presence.set_change_number(*user, number);
        }
        if self.presence.add_unannounced(users) {
            let announcer = PresenceAnnouncer {
                store: self.store.clone(),
                local: self.local.clone(),
                clock: self.clock.clone(),
                notifier: self.notifier.clone(),
                presence: self.presence.clone(),
                federation: self.federation.clone(),
            };
            self.federation.spawn(announcer.run());
        }
    }
}
