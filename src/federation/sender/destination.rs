//! One server that gets what happens here.

use std::{sync::Weak, time::Duration};

use ruma::{
    OwnedServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::value::RawValue;
use smol::{Timer, channel::Receiver};

use super::{Next, Parts, Sender, durable::Durable, rest, rows};
use crate::{
    rooms::{self, servers},
    store::{self, EventNum, Position, ServerNum, Tx},
};

/// How many events a transaction has at the most.
const PDUS: usize = 50;
/// How many rows are looked at for one transaction to a server that is behind. One that lacks more is
/// told only how things stand.
const LOOKED_AT: usize = 1000;
/// How long it is before something is tried again that went wrong here.
const OWN_REST: Duration = Duration::from_hours(1);

/// Sends to `server` what it is to get, until nothing is left.
pub(super) async fn work(sender: &Weak<Parts>, server: ServerNum, alive: &Receiver<()>) {
    let mut resting = match sender.upgrade() {
        Some(parts) => Sender(parts).rest(server),
        None => return,
    };
    // Also after it has shown life: only when it has taken something, nothing is stored any more.
    let mut is_noted = resting.is_some();
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
        match step(&sender, server).await {
            Ok(Step::Done) => return,
            Ok(Step::Sent) => {
                resting = None;
                if std::mem::take(&mut is_noted) {
                    sender.end_rest(server);
                }
            }
            Ok(Step::Failed) => {
                let now = sender.0.clock.now_ms();
                let rest = rest::next(resting.as_ref(), now, rand::random());
                sender.note_rest(server, rest.clone());
                is_noted = true;
                resting = Some(rest);
            }
            Err(rooms::Error::Store(store::Error::Closed)) => return,
            Err(error) => {
                log::error!("cannot send to another server: {error}");
                drop(sender);
                Timer::after(OWN_REST).await;
            }
        }
    }
}

enum Step {
    /// It has everything.
    Done,
    /// It got something.
    Sent,
    /// It does not answer.
    Failed,
}

async fn step(sender: &Sender, server: ServerNum) -> Result<Step, rooms::Error> {
    let behind = {
        let state = sender.lock();
        match state.destinations.get(&server) {
            Some(destination) => destination.behind,
            None => return Ok(Step::Done),
        }
    };
    match behind {
        Some(from) => catch_up(sender, server, from).await,
        None => go_on(sender, server).await,
    }
}

/// Sends what has been handed out for it.
async fn go_on(sender: &Sender, server: ServerNum) -> Result<Step, rooms::Error> {
    let durable = sender.durable(server)?;
    let mut next = sender.next(server, PDUS, durable.edus.len());
    if next.events.is_empty() && next.edus.is_empty() && durable.edus.is_empty() && !next.greets {
        sender.note().await?;
        return Ok(Step::Done);
    }
    let events: Vec<EventNum> = next.events.iter().map(|(_, event)| *event).collect();
    let edus = std::mem::take(&mut next.edus);
    let taken = transact(sender, server, &events, (durable, edus)).await?;
    let first = next.events.first().map(|(first, _)| *first);
    sender.taken(server, taken, next);
    if taken {
        return Ok(Step::Sent);
    }
    if let Some(first) = first {
        sender.fall_behind(server, first).await?;
    }
    Ok(Step::Failed)
}

/// Sends what it lacks, from `from` on.
async fn catch_up(
    sender: &Sender,
    server: ServerNum,
    from: Position,
) -> Result<Step, rooms::Error> {
    let store = &sender.0.store;
    let handed = sender.lock().handed;
    let scan = move |s: &_| rows::for_server(s, server, from, LOOKED_AT);
    let (mut lacks, mut next) = store.scan("what a server lacks", scan).await?;
    if next.is_some() || from < rows::kept_from(handed) {
        return bring_up_to_date(sender, server, (from, handed)).await;
    }
    if lacks.len() > PDUS {
        next = Some(lacks[PDUS].0);
        lacks.truncate(PDUS);
    }
    let events: Vec<EventNum> = lacks.iter().map(|(_, event)| *event).collect();
    if !events.is_empty() {
        let edus = (sender.durable(server)?, Vec::new());
        let taken = transact(sender, server, &events, edus).await?;
        sender.taken(server, taken, Next::default());
        if !taken {
            return Ok(Step::Failed);
        }
    }
    // It has everything up to here, and what is handed out from now on it is handed too.
    if next.is_none() && sender.is_up_to_date(server, handed) {
        let job = move |tx: &Tx| rows::catch_up(tx, server, from);
        store.write(job).await?;
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
) -> Result<Step, rooms::Error> {
    let scan = move |s: &_| rows::current(s, server, from);
    let store = &sender.0.store;
    let events = store.scan("with what rooms end", scan).await?;
    for events in events.chunks(PDUS) {
        let edus = (sender.durable(server)?, Vec::new());
        let taken = transact(sender, server, events, edus).await?;
        sender.taken(server, taken, Next::default());
        if !taken {
            return Ok(Step::Failed);
        }
    }
    sender.fall_behind(server, Position(handed.0 + 1)).await?;
    Ok(Step::Sent)
}

/// Sends one transaction; whether the server has taken it.
async fn transact(
    sender: &Sender,
    server: ServerNum,
    events: &[EventNum],
    (mut durable, edus): (Durable, Vec<Edu>),
) -> Result<bool, rooms::Error> {
    let (name, pdus) = sender.0.store.read(|s| {
        let name = servers::name(s, server)?;
        let mut pdus: Vec<Box<RawValue>> = Vec::new();
        for event in events {
            let json = String::from_utf8(rows::pdu(s, *event)?).ok();
            let pdu = json.and_then(|json| RawValue::from_string(json).ok());
            pdus.push(pdu.ok_or(rooms::Error::corrupt("an event that is no JSON"))?);
        }
        Ok::<(OwnedServerName, _), rooms::Error>((name, pdus))
    })?;
    let now = sender.0.clock.timestamp();
    let origin = sender.0.local.server_name().to_owned();
    let id = sender.transaction_id();
    let mut request = send_transaction_message::v1::Request::new(id.into(), origin, now);
    request.pdus = pdus;
    let edus = edus.iter().map(Raw::new).collect::<Result<Vec<_>, _>>();
    let edus =
        edus.map_err(|_| rooms::Error::corrupt("an ephemeral message that does not serialize"))?;
    request.edus = std::mem::take(&mut durable.edus);
    request.edus.extend(edus);
    match sender.0.client.send(&name, request).await {
        Ok(answer) => {
            for (id, result) in answer.pdus {
                if let Err(reason) = result {
                    log::debug!("{name} does not take {id}: {reason}");
                }
            }
            if durable.is_to_be_noted() {
                let job = move |tx: &Tx| durable.taken(tx, server);
                sender.0.store.write(job).await?;
            }
            Ok(true)
        }
        Err(error) => {
            log::debug!("{name} does not take a transaction: {error}");
            Ok(false)
        }
    }
}
