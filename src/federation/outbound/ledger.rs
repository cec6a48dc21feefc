//! How servers took the last transactions: for the owner.
//!
//! What is in memory is exact. It is stored when a server begins or ceases to fail or the reason changes, and
//! otherwise once in [`SAVE_INTERVAL`], in commits of others: a server that gets a message every minute costs four
//! rows a day.

use std::time::Duration;

use crate::{
    cache::Cache,
    clock::{Clock, as_ms},
    executor::Executor,
    store::{self, Reader, Records, Rows, ServerNum, Store, Tx, records::ServerContact},
};

const MAX_SERVERS: usize = 4096;
const RETENTION: Duration = Duration::from_hours(30 * 24);
const MAX_ERROR_CHARS: usize = 300;
const SAVE_INTERVAL: Duration = Duration::from_hours(6);
/// How many rows are removed at once when there are too many.
const REMOVED: usize = 200;

/// A server in memory.
#[derive(Clone, Debug)]
struct Entry {
    contact: ServerContact,
    /// When it was stored. None if it was not since the start.
    saved_ts: Option<u64>,
}

pub struct Ledger {
    store: Store,
    clock: Clock,
    executor: Executor,
    contacts: Cache<ServerNum, Entry>,
}

impl Ledger {
    pub fn new(store: &Store, clock: &Clock, executor: &Executor) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            contacts: Cache::new(clock, MAX_SERVERS),
        }
    }

    pub fn get(&self, r: &impl Reader, server: ServerNum) -> Result<ServerContact, store::Error> {
        if let Some(entry) = self.contacts.get(&server) {
            return Ok(entry.contact);
        }
        let stored = r.server_contacts()?.load(server)?;
        Ok(stored.unwrap_or(ServerContact {
            success_ts: None,
            failure: None,
        }))
    }

    pub fn succeeded(&self, server: ServerNum) {
        let contact = ServerContact {
            success_ts: Some(self.clock.now_ms()),
            failure: None,
        };
        self.note(server, contact);
    }

    pub fn failed(&self, server: ServerNum, error: &str) {
        let words = error.chars().take(MAX_ERROR_CHARS).collect();
        let before = self.store.read(|s| self.get(s, server));
        let contact = ServerContact {
            success_ts: before.ok().and_then(|before| before.success_ts),
            failure: Some((self.clock.now_ms(), words)),
        };
        self.note(server, contact);
    }

    fn note(&self, server: ServerNum, contact: ServerContact) {
        let now = self.clock.now_ms();
        let before = self.contacts.get(&server);
        let is_due = is_due(before.as_ref(), &contact, now);
        let saved_ts = match is_due {
            true => Some(now),
            false => before.and_then(|before| before.saved_ts),
        };
        let entry = Entry {
            contact: contact.clone(),
            saved_ts,
        };
        self.contacts.insert(server, entry, RETENTION);
        if !is_due {
            return;
        }
        let store = self.store.clone();
        let save = self.executor.spawn(async move {
            let saved = store.write_deferred(move |tx: &Tx| put(tx, server, &contact));
            if let Err(error) = saved.await {
                log::debug!("how another server took a transaction cannot be stored: {error}");
            }
        });
        save.detach();
    }
}

fn is_due(before: Option<&Entry>, contact: &ServerContact, now: u64) -> bool {
    let Some(before) = before else {
        return true;
    };
    let reason = |contact: &ServerContact| contact.failure.as_ref().map(|(_, words)| words.clone());
    reason(&before.contact) != reason(contact)
        || before
            .saved_ts
            .is_none_or(|ts| ts.saturating_add(as_ms(SAVE_INTERVAL)) <= now)
}

fn put(tx: &Tx, server: ServerNum, contact: &ServerContact) -> Result<(), store::Error> {
    let mut table = tx.server_contacts()?;
    if table.len()? >= MAX_SERVERS as u64 && !table.has(server)? {
        let mut all = Vec::new();
        for row in table.all()? {
            let (server, row) = row?;
            // What cannot be read is removed first.
            let contact = row.record(&server).ok();
            let last = contact.map(|contact| {
                let failure_ts = contact.failure.map_or(0, |(ts, _)| ts);
                failure_ts.max(contact.success_ts.unwrap_or(0))
            });
            all.push((last.unwrap_or(0), server.value()));
        }
        all.sort_unstable();
        for (_, server) in all.into_iter().take(REMOVED) {
            table.remove(server)?;
        }
    }
    table.put(server, contact)
}

#[cfg(test)]
mod tests {
    use super::{Entry, SAVE_INTERVAL, ServerContact, is_due};
    use crate::clock::as_ms;

    #[test]
    fn a_server_that_goes_on_as_before_is_stored_once_in_a_while() {
        let contact = |success_ts, failure: Option<&str>| ServerContact {
            success_ts: Some(success_ts),
            failure: failure.map(|words| (success_ts + 1, words.to_owned())),
        };
        let entry = Entry {
            contact: contact(5, None),
            saved_ts: Some(5),
        };
        let later = 5 + as_ms(SAVE_INTERVAL);
        assert!(is_due(None, &contact(5, None), 5));
        assert!(!is_due(Some(&entry), &contact(later - 1, None), later - 1));
        assert!(is_due(Some(&entry), &contact(later, None), later));
        assert!(is_due(Some(&entry), &contact(5, Some("it is silent")), 6));
        let failing = Entry {
            contact: contact(5, Some("it is silent")),
            saved_ts: Some(6),
        };
        assert!(!is_due(
            Some(&failing),
            &contact(5, Some("it is silent")),
            7
        ));
        assert!(is_due(Some(&failing), &contact(5, Some("it is full")), 7));
        assert!(is_due(Some(&failing), &contact(7, None), 7));
    }
}
