//! The task of one destination.
//!
//! If the server does not answer, its task backs off exponentially, and the backoff is stored. After an
//! error of this server the task backs off too, but only in memory, and goes on when the store was
//! reopened. An event or EDU that cannot be sent is left out, so that it does not stop what comes after
//! it.

use std::{panic::AssertUnwindSafe, sync::Weak};

use http::StatusCode;
use ruma::{
    ServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1::Request},
    serde::Raw,
};
use serde_json::value::RawValue;
use smol::{channel::Receiver, future::FutureExt};

use super::{
    backoff,
    ephemeral_edus::MAX_EDUS,
    outgoing_events, pending_leaves,
    queues::{MAX_PDUS, Next, Queues},
    stored_edus::{StoredEdus, is_sendable},
};
use crate::{
    federation::Error,
    rooms::{self, event, servers},
    store::{self, EventNum, Position, Reader, ServerNum, Tx},
};

/// How many events and EDUs a transaction may have.
const MAX_ITEMS: usize = MAX_PDUS + MAX_EDUS;
/// A transaction of no more bytes is too large for no server, whatever the server answers.
const MIN_TOO_LARGE_BYTES: usize = 4096;
/// How many rows of `outgoing` are read for one transaction to a server with a cursor. A server that
/// lacks more receives only the forward extremities of its rooms.
const CATCH_UP_ROWS: usize = 1000;

/// Sends to `server` until there is nothing left to send.
pub async fn run(queues: Weak<Queues>, server: ServerNum, alive: Receiver<()>) {
    let mut backoff = match queues.upgrade() {
        Some(queues) => queues.backoff(server),
        None => return,
    };
    // A request of the server ends the backoff here, but only an acknowledged transaction in the store.
    let mut is_stored = backoff.is_some();
    let (mut max_items, mut own_backoff) = (MAX_ITEMS, None);
    loop {
        if let Some(waiting) = &backoff {
            let Some(clock) = queues.upgrade().map(|queues| queues.clock.clone()) else {
                return;
            };
            if backoff::wait(waiting, &clock, &alive).await {
                backoff = None;
            }
        }
        // The destination gave way to another one, and may have a new task.
        if alive.is_closed() {
            return;
        }
        let is_failing = backoff.is_some();
        let Some(turns) = queues.upgrade().map(|q| q.turns(server, is_failing)) else {
            return;
        };
        let turn = turns.acquire().await;
        let Some(strong) = queues.upgrade() else {
            return;
        };
        // While it waits, a task is small: there can be many.
        let step = Box::pin(AssertUnwindSafe(step(&strong, server, max_items)).catch_unwind());
        let outcome = step.await;
        drop(turn);
        match outcome.unwrap_or(Err(store::Error::Panicked.into())) {
            Ok(Step::Done) => return,
            Ok(Step::Sent) => {
                (backoff, own_backoff) = (None, None);
                max_items = MAX_ITEMS.min(max_items + 1);
                if std::mem::take(&mut is_stored) {
                    strong.clear_backoff(server);
                }
            }
            Ok(Step::TooLarge { retry_with }) => max_items = retry_with,
            Ok(Step::Failed) => {
                let now = strong.clock.now_ms();
                let next = backoff::next(backoff.as_ref(), now, rand::random());
                strong.save_backoff(server, next.clone(), now);
                is_stored = true;
                backoff = Some(next);
            }
            Err(rooms::Error::Store(store::Error::Closed)) => return,
            Err(error) => {
                log::error!(
                    "nothing is sent to {} for now: {error}",
                    strong.name(server)
                );
                let clock = strong.clock.clone();
                let next = backoff::next(own_backoff.as_ref(), clock.now_ms(), rand::random());
                strong.set_stuck(server);
                drop(strong);
                let was_woken = backoff::wait(&next, &clock, &alive).await;
                own_backoff = (!was_woken).then_some(next);
            }
        }
    }
}

enum Step {
    /// There is nothing left to send.
    Done,
    Sent,
    /// The server takes only smaller transactions.
    TooLarge {
        retry_with: usize,
    },
    /// The server does not answer.
    Failed,
}

/// The result of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Acknowledged,
    TooLarge { retry_with: usize },
    Failed,
}

impl From<Outcome> for Step {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Acknowledged => Self::Sent,
            Outcome::TooLarge { retry_with } => Self::TooLarge { retry_with },
            Outcome::Failed => Self::Failed,
        }
    }
}

async fn step(queues: &Queues, server: ServerNum, max: usize) -> Result<Step, rooms::Error> {
    let cursor = match queues.lock().destinations.get(&server) {
        Some(destination) => destination.cursor,
        None => return Ok(Step::Done),
    };
    if let Some(is_acknowledged) = pending_leaves::send_next(queues, server).await? {
        queues.finish_transaction(server, is_acknowledged, Next::default());
        return Ok(match is_acknowledged {
            true => Step::Sent,
            false => Step::Failed,
        });
    }
    match cursor {
        Some(cursor) => catch_up(queues, server, cursor, max).await,
        None => send_queued(queues, server, max).await,
    }
}

/// Sends what is in the queue of the destination.
async fn send_queued(queues: &Queues, server: ServerNum, max: usize) -> Result<Step, rooms::Error> {
    let stored = queues.stored_edus(server, max).await?;
    let mut next = queues.next(server, max, stored.edus.len());
    if next.is_empty() && stored.edus.is_empty() {
        queues.save_sent().await?;
        return Ok(Step::Done);
    }
    let events: Vec<EventNum> = next.events.iter().map(|(_, event)| *event).collect();
    let edus = std::mem::take(&mut next.edus);
    let outcome = send_transaction(queues, server, &events, stored, edus, max).await?;
    let first = next.events.first().map(|(first, _)| *first);
    queues.finish_transaction(server, outcome == Outcome::Acknowledged, next);
    if outcome == Outcome::Failed
        && let Some(first) = first
    {
        queues.set_cursor(server, first).await?;
    }
    Ok(outcome.into())
}

/// Sends what the server may lack from `cursor` on.
async fn catch_up(
    queues: &Queues,
    server: ServerNum,
    cursor: Position,
    max: usize,
) -> Result<Step, rooms::Error> {
    let relayed = queues.lock().relayed;
    let scan = move |s: &_| outgoing_events::for_server(s, server, cursor, CATCH_UP_ROWS);
    let (mut events, mut next) = queues.scan("events for a server", scan).await?;
    if next.is_some() || cursor < outgoing_events::kept_from(relayed) {
        return send_extremities(queues, server, cursor, relayed, max).await;
    }
    if !events.is_empty() {
        let stored = queues.stored_edus(server, max).await?;
        let count = max_events(max, &stored);
        if let Some((position, _)) = events.get(count) {
            next = Some(*position);
            events.truncate(count);
        }
        let events: Vec<EventNum> = events.iter().map(|(_, event)| *event).collect();
        let outcome = send_transaction(queues, server, &events, stored, Vec::new(), max).await?;
        let is_acknowledged = outcome == Outcome::Acknowledged;
        queues.finish_transaction(server, is_acknowledged, Next::default());
        if !is_acknowledged {
            return Ok(outcome.into());
        }
    }
    // What is relayed from now on goes into its queue again.
    if next.is_none() && queues.remove_cursor(server, relayed) {
        let job = move |tx: &Tx| outgoing_events::remove_cursor(tx, server, cursor);
        queues.store.write(job).await?;
        return Ok(Step::Sent);
    }
    let next = next.unwrap_or(Position(relayed.0 + 1));
    queues.set_cursor(server, next).await?;
    Ok(Step::Sent)
}

/// Sends the forward extremities of its rooms to a server that lacks too many events from `cursor` on.
async fn send_extremities(
    queues: &Queues,
    server: ServerNum,
    cursor: Position,
    relayed: Position,
    max: usize,
) -> Result<Step, rooms::Error> {
    let scan = move |s: &_| outgoing_events::extremities(s, server, cursor);
    let extremities = queues.scan("forward extremities", scan).await?;
    let mut left = &extremities[..];
    while !left.is_empty() {
        let stored = queues.stored_edus(server, max).await?;
        let (events, later) = left.split_at(max_events(max, &stored).min(left.len()));
        let outcome = send_transaction(queues, server, events, stored, Vec::new(), max).await?;
        let is_acknowledged = outcome == Outcome::Acknowledged;
        queues.finish_transaction(server, is_acknowledged, Next::default());
        if !is_acknowledged {
            return Ok(outcome.into());
        }
        left = later;
    }
    let next = Position(relayed.0 + 1);
    queues.set_cursor(server, next).await?;
    Ok(Step::Sent)
}

/// How many events fit into a transaction of `max` items beside stored EDUs.
fn max_events(max: usize, stored: &StoredEdus) -> usize {
    MAX_PDUS.min(max.saturating_sub(stored.edus.len()))
}

/// Sends one transaction, with fewer items next time if the server answers that it is too large. A single
/// item that is too large is dropped: it would stop everything after it.
async fn send_transaction(
    queues: &Queues,
    server: ServerNum,
    events: &[EventNum],
    mut stored: StoredEdus,
    edus: Vec<Edu>,
    max: usize,
) -> Result<Outcome, rooms::Error> {
    let name = queues.store.read(|s| servers::name(s, server))?;
    let mut all_edus = std::mem::take(&mut stored.edus);
    for edu in edus {
        match Raw::new(&edu) {
            Ok(edu) => all_edus.push(edu),
            Err(error) => log::error!("an EDU for {name} is dropped: {error}"),
        }
    }
    let mut is_checked = false;
    let (result, items, bytes) = loop {
        let now = queues.clock.timestamp();
        let origin = queues.local.server_name().to_owned();
        let mut request = Request::new(queues.transaction_id().into(), origin, now);
        request.pdus = queues
            .store
            .read(|s| load_pdus(s, &name, events, is_checked))?;
        request.edus.clone_from(&all_edus);
        let edus = request.edus.iter().map(|edu| edu.json().get().len());
        let pdus = request.pdus.iter().map(|pdu| pdu.get().len());
        let items = request.pdus.len() + request.edus.len();
        let bytes: usize = edus.chain(pdus).sum();
        match queues.client.send(&name, request).await {
            Err(Error::Unsendable(_)) if !is_checked => {}
            // The server may check signatures over canonical JSON only.
            Err(Error::Status(StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, _))
                if !is_checked && !all_edus.iter().all(|edu| is_sendable(edu.json())) => {}
            result => break (result, items, bytes),
        }
        is_checked = true;
        all_edus.retain(|edu| is_edu_sendable(&name, edu));
    };
    match result {
        Ok(response) => {
            for (id, result) in response.pdus {
                if let Err(reason) = result {
                    log::debug!("{name} rejects {id}: {reason}");
                }
            }
            queues.ledger.succeeded(server);
        }
        Err(Error::Status(StatusCode::PAYLOAD_TOO_LARGE, _)) if bytes > MIN_TOO_LARGE_BYTES => {
            if items > 1 && max > 1 {
                return Ok(Outcome::TooLarge {
                    retry_with: items / 2,
                });
            }
            log::warn!(
                "{name} does not receive an event or EDU of {bytes} bytes, which it says is too large"
            );
        }
        Err(Error::Unsendable(reason)) => {
            log::error!("a transaction for {name} with {items} items is dropped: {reason}");
        }
        Err(error) => {
            log::debug!("{name} does not take a transaction: {error}");
            queues.ledger.failed(server, &error.to_string());
            return Ok(Outcome::Failed);
        }
    }
    if stored.advances() {
        let job = move |tx: &Tx| stored.acknowledged(tx, server);
        queues.store.write(job).await?;
    }
    Ok(Outcome::Acknowledged)
}

/// The events as PDUs. A corrupt one is left out, and if `is_checked` one that no transaction can contain.
pub(super) fn load_pdus(
    r: &impl Reader,
    destination: &ServerName,
    events: &[EventNum],
    is_checked: bool,
) -> Result<Vec<Box<RawValue>>, rooms::Error> {
    let mut pdus = Vec::new();
    for num in events {
        let event = match event::load(r, *num) {
            Ok(event) => event,
            Err(rooms::Error::Store(store::Error::Corrupt(reason))) => {
                log::error!("an event is not sent to {destination}: {reason}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let pdu = String::from_utf8(event.json).ok();
        let pdu = pdu.and_then(|json| RawValue::from_string(json).ok());
        match pdu.filter(|pdu| !is_checked || is_sendable(pdu)) {
            Some(pdu) => pdus.push(pdu),
            None => log::error!(
                "event {} is not sent to {destination}: its JSON is corrupt or too deep",
                event.header.id
            ),
        }
    }
    Ok(pdus)
}

fn is_edu_sendable(destination: &ServerName, edu: &Raw<Edu>) -> bool {
    let is_sendable = is_sendable(edu.json());
    if !is_sendable {
        log::warn!(
            "an EDU is not sent to {destination}, which rejects it: it is no canonical JSON, or nested too deep"
        );
    }
    is_sendable
}
