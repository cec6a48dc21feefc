//! Transactions that take long to process, and how long the requests of others wait meanwhile.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, ServerName};
use serde_json::{Value, json};

use crate::{load::probe, mock_homeserver::MockHomeserver};

/// The limits of a transaction, and of one EDU of hearth's.
const EDUS: usize = 100;
pub const RECEIPTS_PER_EDU: usize = 500;
const PRESENCE_UPDATES_PER_EDU: usize = 200;

/// A server ACL of nearly 64 KiB.
pub fn large_acl() -> Value {
    let denied = (0..1500).map(|number| format!("*.b?d{number}.*.evil-server.example"));
    json!({ "allow": ["*"], "deny": denied.collect::<Vec<_>>() })
}

/// Receipts of all members for one event.
pub fn receipts(remote: &MockHomeserver, room: &OwnedRoomId, event: &OwnedEventId) -> Vec<Value> {
    let receipt = json!({ "event_ids": [event], "data": { "ts": 1 } });
    let read =
        (0..RECEIPTS_PER_EDU).map(|number| (remote.user(number).to_string(), receipt.clone()));
    let read: serde_json::Map<_, _> = read.collect();
    let edu = json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": read } } });
    vec![edu; EDUS]
}

pub fn presence(remote: &MockHomeserver) -> Vec<Value> {
    let edu = |message: usize| {
        let update = |number| {
            json!({
                "user_id": remote.user(number), "presence": "online", "last_active_ago": 1,
                "status_msg": message.to_string(),
            })
        };
        let push: Vec<_> = (0..PRESENCE_UPDATES_PER_EDU).map(update).collect();
        json!({ "edu_type": "m.presence", "content": { "push": push } })
    };
    (0..EDUS).map(edu).collect()
}

/// Sends `edus` in one transaction; returns the longest response time of a probe meanwhile.
pub fn longest_probe(
    remote: &MockHomeserver,
    name: &ServerName,
    port: u16,
    edus: &[Value],
) -> io::Result<Duration> {
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let prober = scope.spawn(move || probe(port, stop));
        let sent = remote.send_edus(name, port, edus);
        // Receipts are written after the response.
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        let probes = prober.join();
        sent?;
        let probes = probes.unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))?;
        Ok(probes.into_iter().max().unwrap_or_default())
    })
}
