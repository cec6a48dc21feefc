//! One server that gets what happens here.
//!
//! A server that does not answer rests, and that is stored. What goes wrong here counts as no fault of it:
//! its task rests too, for as long as it lasts, but goes on when the store was opened again.

use std::sync::Weak;

use http::StatusCode;
use ruma::{
    OwnedServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::value::RawValue;
use smol::channel::Receiver;

use super::{Next, PDUS, Parts, Sender, durable::Durable, edus::EDUS, rest, rows};
use crate::{
    federation::Error,
    rooms::{self, servers},
    store::{self, EventNum, Position, ServerNum, Tx},
};

/// How many events and other messages a transaction has at the most.
const MOST: usize = PDUS + EDUS;
/// What has no more bytes than this is too large for no server, whatever it says.
const SMALL: usize = 4096;
/// How many rows are looked at for one transaction to a server that is behind. One that lacks more is
/// told only how things stand.
const LOOKED_AT: usize = 1000;

/// Sends to `server` what it is to get, until nothing is left.
pub(super) async fn work(sender: &Weak<Parts>, server: ServerNum, alive: &Receiver<()>) {
    let mut resting = match sender.upgrade() {
        Some(parts) => Sender(parts).rest(server),
        None => return,
    };
    // Also after it has shown life: only when it has taken something, nothing is stored any more.
    let mut is_noted = resting.is_some();
    let (mut most, mut stuck) = (MOST, None);
    loop {
        if let Some(rest) = &resting {
            let Some(clock) = sender.upgrade().map(|parts| parts.clock.clone()) else {
                return;
            };
            if rest::wait(rest, &clock, alive).await {
                resting = None;
            }
        }
        let Some(parts) = sender.upgrade() else {
            return;
        };
        let sender = Sender(parts);
        match step(&sender, server, most).await {
            Ok(Step::Done) => return,
            Ok(Step::Sent) => {
                (resting, stuck) = (None, None);
                most = MOST.min(most + 1);
                if std::mem::take(&mut is_noted) {
                    sender.end_rest(server);
                }
            }
            Ok(Step::TooLarge(less)) => most = less,
            Ok(Step::Failed) => {
                let now = sender.0.clock.now_ms();
                let rest = rest::next(resting.as_ref(), now, rand::random());
                sender.note_rest(server, rest.clone(), now);
                is_noted = true;
                resting = Some(rest);
            }
            Err(rooms::Error::Store(store::Error::Closed)) => return,
            Err(error) => {
                log::error!("cannot send to another server: {error}");
                let clock = sender.0.clock.clone();
                let rest = rest::next(stuck.as_ref(), clock.now_ms(), rand::random());
                sender.is_stuck(server);
                drop(sender);
                let is_over = rest::wait(&rest, &clock, alive).await;
                stuck = (!is_over).then_some(rest);
            }
        }
    }
}

enum Step {
    /// It has everything.
    Done,
    /// It got something.
    Sent,
    /// It takes less at once: so much is to be tried.
    TooLarge(usize),
    /// It does not answer.
    Failed,
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The server has taken it.
    Taken,
    /// The server takes less at once: so much is to be tried.
    TooLarge(usize),
    /// The server has not taken it.
    Failed,
}

impl From<Outcome> for Step {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Taken => Self::Sent,
            Outcome::TooLarge(less) => Self::TooLarge(less),
            Outcome::Failed => Self::Failed,
        }
    }
}

async fn step(sender: &Sender, server: ServerNum, most: usize) -> Result<Step, rooms::Error> {
    let behind = {
        let state = sender.lock();
        match state.destinations.get(&server) {
            Some(destination) => destination.behind,
            None => return Ok(Step::Done),
        }
    };
    match behind {
        Some(from) => catch_up(sender, server, from, most).await,
        None => go_on(sender, server, most).await,
    }
}

/// Sends what has been handed out for it.
async fn go_on(sender: &Sender, server: ServerNum, most: usize) -> Result<Step, rooms::Error> {
    let durable = sender.durable(server, most).await?;
    let mut next = sender.next(server, most, durable.edus.len());
    if next.events.is_empty() && next.edus.is_empty() && durable.edus.is_empty() && !next.greets {
        sender.note().await?;
        return Ok(Step::Done);
    }
    let events: Vec<EventNum> = next.events.iter().map(|(_, event)| *event).collect();
    let edus = std::mem::take(&mut next.edus);
    let outcome = transact(sender, server, &events, (durable, edus), most).await?;
    let first = next.events.first().map(|(first, _)| *first);
    sender.taken(server, outcome == Outcome::Taken, next);
    if outcome == Outcome::Failed
        && let Some(first) = first
    {
        sender.fall_behind(server, first).await?;
    }
    Ok(outcome.into())
}

/// Sends what it lacks, from `from` on.
async fn catch_up(
    sender: &Sender,
    server: ServerNum,
    from: Position,
    most: usize,
) -> Result<Step, rooms::Error> {
    let handed = sender.lock().handed;
    let scan = move |s: &_| rows::for_server(s, server, from, LOOKED_AT);
    let (mut lacks, mut next) = sender.scan("what a server lacks", scan).await?;
    if next.is_some() || from < rows::kept_from(handed) {
        return bring_up_to_date(sender, server, (from, handed), most).await;
    }
    if !lacks.is_empty() {
        let durable = sender.durable(server, most).await?;
        let room = room(most, &durable);
        if let Some((position, _)) = lacks.get(room) {
            next = Some(*position);
            lacks.truncate(room);
        }
        let events: Vec<EventNum> = lacks.iter().map(|(_, event)| *event).collect();
        let outcome = transact(sender, server, &events, (durable, Vec::new()), most).await?;
        sender.taken(server, outcome == Outcome::Taken, Next::default());
        if outcome != Outcome::Taken {
            return Ok(outcome.into());
        }
    }
    // It has everything up to here, and what is handed out from now on it is handed too.
    if next.is_none() && sender.is_up_to_date(server, handed) {
        let job = move |tx: &Tx| rows::catch_up(tx, server, from);
        sender.0.store.write(job).await?;
        return Ok(Step::Sent);
    }
    let next = next.unwrap_or(Position(handed.0 + 1));
    sender.fall_behind(server, next).await?;
    Ok(Step::Sent)
}

/// Sends with what its rooms end to a server that lacks too much since `from`.
async fn bring_up_to_date(
    sender: &Sender,
    server: ServerNum,
    (from, handed): (Position, Position),
    most: usize,
) -> Result<Step, rooms::Error> {
    let scan = move |s: &_| rows::current(s, server, from);
    let ends = sender.scan("with what rooms end", scan).await?;
    let mut left = &ends[..];
    while !left.is_empty() {
        let durable = sender.durable(server, most).await?;
        let (events, later) = left.split_at(room(most, &durable).min(left.len()));
        let outcome = transact(sender, server, events, (durable, Vec::new()), most).await?;
        sender.taken(server, outcome == Outcome::Taken, Next::default());
        if outcome != Outcome::Taken {
            return Ok(outcome.into());
        }
        left = later;
    }
    sender.fall_behind(server, Position(handed.0 + 1)).await?;
    Ok(Step::Sent)
}

/// How many events a transaction of at most so much has room for beside what is `durable`.
fn room(most: usize, durable: &Durable) -> usize {
    PDUS.min(most.saturating_sub(durable.edus.len()))
}

/// Sends one transaction, which can be made smaller if `most` is more than one. What is too large for the
/// server all alone is lost: it would be in everything's way for ever.
async fn transact(
    sender: &Sender,
    server: ServerNum,
    events: &[EventNum],
    (mut durable, edus): (Durable, Vec<Edu>),
    most: usize,
) -> Result<Outcome, rooms::Error> {
    let (name, pdus) = sender.0.store.read(|s| {
        let name = servers::name(s, server)?;
        let mut pdus: Vec<Box<RawValue>> = Vec::new();
        for event in events {
            let json = String::from_utf8(rows::pdu(s, *event)?).ok();
            let pdu = json.and_then(|json| RawValue::from_string(json).ok());
            pdus.push(pdu.ok_or_else(|| rooms::Error::corrupt("events", event, "not JSON"))?);
        }
        Ok::<(OwnedServerName, _), rooms::Error>((name, pdus))
    })?;
    let now = sender.0.clock.timestamp();
    let origin = sender.0.local.server_name().to_owned();
    let id = sender.transaction_id();
    let mut request = send_transaction_message::v1::Request::new(id.into(), origin, now);
    request.pdus = pdus;
    let edus = edus.iter().map(Raw::new).collect::<Result<Vec<_>, _>>();
    let edus = edus.map_err(|_| rooms::Error::not_serializable("an EDU"))?;
    request.edus = std::mem::take(&mut durable.edus);
    request.edus.extend(edus);
    let edus = request.edus.iter().map(|edu| edu.json().get().len());
    let pdus = request.pdus.iter().map(|pdu| pdu.get().len());
    let sizes = edus.chain(pdus);
    let (parts, size) = sizes.fold((0, 0), |(parts, sum), size| (parts + 1, sum + size));
    match sender.0.client.send(&name, request).await {
        Ok(answer) => {
            for (id, result) in answer.pdus {
                if let Err(reason) = result {
                    log::debug!("{name} does not take {id}: {reason}");
                }
            }
        }
        Err(Error::Status(StatusCode::PAYLOAD_TOO_LARGE, _)) if size > SMALL => {
            if parts > 1 && most > 1 {
                return Ok(Outcome::TooLarge(parts / 2));
            }
            log::warn!("{name} does not get something of {size} bytes, which it says is too large");
        }
        Err(Error::Unsendable(reason)) => {
            log::error!("a transaction for {name} cannot be signed: {reason}");
            return Err(rooms::Error::not_serializable("a transaction"));
        }
        Err(error) => {
            log::debug!("{name} does not take a transaction: {error}");
            return Ok(Outcome::Failed);
        }
    }
    if durable.is_to_be_noted() {
        let job = move |tx: &Tx| durable.taken(tx, server);
        sender.0.store.write(job).await?;
    }
    Ok(Outcome::Taken)
}
