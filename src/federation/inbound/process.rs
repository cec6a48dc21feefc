//! Steps 4 to 6: deciding a verified event and storing it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::OwnedEventId;

use super::{
    error::Error,
    event_fetcher::is_processed,
    event_source::{EventSource, PDUS_PER_SLICE},
    gap::{MAX_DECISIONS, StateBefore},
    receiver::PduReceiver,
    room::Room,
};
use crate::{
    executor::Slices,
    federation::policy,
    protocol::{Pdu, build::EventDraft, receive::Received},
    rooms::{
        self,
        event::{
            self,
            insert::Notify,
            receive::{self, decide},
        },
        policy_server, room, timeline,
        unread::notify,
    },
    store::{Reader, RoomNum, Tx},
};

/// How many events of a chain one write job stores.
const MAX_CHAIN_PER_JOB: usize = 32;
/// After this time a write job leaves the rest of its chain to the next job.
const CHAIN_JOB_TIMEOUT: Duration = Duration::from_millis(5);

impl<S: EventSource> PduReceiver<S> {
    /// Decides and stores `event`. `claimed_state` is the state before it as another server claims it,
    /// needed if prev_events are missing; its events must be stored.
    ///
    /// # Errors
    /// [`rooms::Error::Missing`] if an auth event is not stored, or a prev_event is not stored and
    /// `claimed_state` is `None`.
    pub(in crate::federation) async fn process(
        &self,
        room: &Room,
        event: Received,
        claimed_state: Option<Vec<OwnedEventId>>,
    ) -> Result<(), Error> {
        let event = self.with_policy_signature(room, event).await?;
        let gap = |s: &_| timeline::gap_of(s, room.num, event.pdu.event_id());
        for _ in 0..MAX_DECISIONS {
            let Some(gap) = self.store().read(gap)? else {
                let _room_lock = self.lock_room(room.num).await;
                let decided = self.decide_and_store(room.num, event, claimed_state, false);
                return decided.await;
            };
            let claimed = claimed_state.iter();
            let claimed = claimed.map(|state| (event.pdu.event_id().to_owned(), state.clone()));
            let before = StateBefore::Claimed(claimed.collect());
            match self.fill_gap(room, gap, vec![event.clone()], before).await {
                // The gap was moved or closed by another task meanwhile.
                Err(Error::Rooms(rooms::Error::Stale)) => {}
                Ok(_) if claimed_state.is_none() => {
                    let pdu = &event.pdu;
                    let missing = |s: &_| receive::missing(s, room.num, room.rules, pdu);
                    let is_processed = self.store().read(|s| is_processed(s, pdu.event_id()))?;
                    // With all prev_events it stays an outlier if it rests on a claim.
                    return match is_processed || self.store().read(missing)?.is_empty() {
                        true => Ok(()),
                        false => Err(rooms::Error::Missing.into()),
                    };
                }
                filled => return filled.map(drop),
            }
        }
        Err(rooms::Error::Stale.into())
    }

    /// As [`process`](Self::process), for an event of which this server is the resident server: it
    /// relays the event to the other servers in the room.
    pub(in crate::federation) async fn process_and_relay(
        &self,
        room: &Room,
        event: Received,
    ) -> Result<(), Error> {
        let event = self.with_policy_signature(room, event).await?;
        let _room_lock = self.lock_room(room.num).await;
        self.decide_and_store(room.num, event, None, true).await
    }

    /// `event` with the signature of the room's policy server, if the room uses one that signs it. Without it the
    /// event will be soft-failed.
    ///
    /// Source: server-server API, "Validating Policy Server signatures".
    pub(in crate::federation) async fn with_policy_signature(
        &self,
        room: &Room,
        event: Received,
    ) -> Result<Received, rooms::Error> {
        let json = &event.json;
        let sign = |server| async move {
            let signature = self.source().policy_signature(&server, room, json);
            Ok::<_, rooms::Error>(signature.await)
        };
        let signed = policy::signed_json(self.store(), room, (&event.pdu, json), sign);
        Ok(match signed.await? {
            Some(json) => Received { json, ..event },
            None => event,
        })
    }

    /// Processes the longest prefix of `events` that is a chain on top of the room's only forward
    /// extremity, in one write job. Returns its length, 0 if it is not worth a job of its own.
    pub(super) async fn process_chain(
        &self,
        room: &Room,
        events: &[Received],
    ) -> Result<usize, Error> {
        let num = room.num;
        let mut length = usize::from(self.store().read(|s| match events.first() {
            // Each of them may need a signature of its own.
            Some(first) if is_signature_missing(s, room, first)? => Ok(false),
            Some(first) => extends_only_extremity(s, num, &first.pdu),
            None => Ok(false),
        })?);
        while length > 0
            && length < MAX_CHAIN_PER_JOB
            && let Some(next) = events.get(length)
            && *next.pdu.prev_events() == [events[length - 1].pdu.event_id().to_owned()]
        {
            length += 1;
        }
        if length < 2 {
            return Ok(0);
        }
        let _room_lock = self.lock_room(num).await;
        let mut chain = Vec::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for event in &events[..length] {
            slices.step().await;
            chain.push((event.clone(), self.notify(&event.pdu).await?));
        }
        let local = self.local().clone();
        let chain = Arc::new(chain);
        let room_of_job = room.clone();
        let job = move |tx: &Tx| {
            let start = Instant::now();
            for (index, (event, notify)) in chain.iter().enumerate() {
                let pdu = Arc::new(event.pdu.clone());
                let fills_gap = timeline::gap_of(tx, num, pdu.event_id())?.is_some();
                if start.elapsed() > CHAIN_JOB_TIMEOUT
                    || fills_gap
                    || is_signature_missing(tx, &room_of_job, event)?
                    || !extends_only_extremity(tx, num, &pdu)?
                {
                    return Ok(index);
                }
                match decide(tx, num, pdu, event.json.clone(), None) {
                    Ok(decision) => receive::commit(tx, &local, &decision, notify)?,
                    Err(error @ rooms::Error::Store(_)) => return Err(error),
                    Err(_) => return Ok(index),
                };
            }
            Ok(chain.len())
        };
        Ok(self.store().write(job).await?)
    }

    /// Decides on a snapshot and stores, again if the room has changed in between.
    async fn decide_and_store(
        &self,
        num: RoomNum,
        event: Received,
        claimed_state: Option<Vec<OwnedEventId>>,
        relay: bool,
    ) -> Result<(), Error> {
        let notify = self.notify(&event.pdu).await?;
        let pdu = Arc::new(event.pdu);
        for _ in 0..MAX_DECISIONS {
            let mut decision = self
                .decide(num, &pdu, &event.json, claimed_state.as_deref())
                .await?;
            if relay {
                decision = decision.with_relay();
            }
            let (local, notify) = (self.local().clone(), notify.clone());
            let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &notify);
            match self.store().write(job).await {
                Err(rooms::Error::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
        Err(rooms::Error::Stale.into())
    }

    /// In place if the event follows the only forward extremity, else on the pool: state resolution
    /// may be necessary.
    async fn decide(
        &self,
        room: RoomNum,
        pdu: &Arc<Pdu>,
        json: &[u8],
        claimed_state: Option<&[OwnedEventId]>,
    ) -> Result<receive::Decision, rooms::Error> {
        let store = self.store();
        if claimed_state.is_none() && store.read(|s| extends_only_extremity(s, room, pdu))? {
            return store.read(|s| decide(s, room, pdu.clone(), json.to_vec(), None));
        }
        let (pdu, json) = (pdu.clone(), json.to_vec());
        let claimed_state = claimed_state.map(<[_]>::to_vec);
        let scan = store.scan("an event of another server", move |s| {
            let claimed_state = match &claimed_state {
                Some(ids) => Some(receive::claimed_state(s, room, ids)?),
                None => None,
            };
            decide(s, room, pdu.clone(), json.clone(), claimed_state)
        });
        scan.await
    }

    async fn notify(&self, pdu: &Pdu) -> Result<Notify, rooms::Error> {
        let draft = EventDraft::from_pdu(pdu)?;
        notify::evaluate(self.store(), self.local(), &draft).await
    }
}

/// Whether the room uses a policy server that has not signed `event`.
fn is_signature_missing(
    r: &impl Reader,
    room: &Room,
    event: &Received,
) -> Result<bool, rooms::Error> {
    let server =
        policy_server::missing_signature(r, room.num, room.rules, &event.pdu, &event.json)?;
    Ok(server.is_some())
}

/// Whether the room has one forward extremity, and `pdu` follows only that.
fn extends_only_extremity(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<bool, rooms::Error> {
    let heads = room::heads(r, room)?;
    match (heads.extremities.as_slice(), pdu.prev_events()) {
        ([extremity], [prev]) => Ok(event::num_of(r, prev)? == Some(*extremity)),
        _ => Ok(false),
    }
}
