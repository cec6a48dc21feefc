//! How servers took the last transactions, since this server's start: for the owner.

use std::time::Duration;

use crate::{cache::Cache, clock::Clock, store::ServerNum};

const MAX_SERVERS: usize = 4096;
const RETENTION: Duration = Duration::from_hours(30 * 24);
const MAX_ERROR_CHARS: usize = 300;

#[derive(Clone, Debug, Default)]
pub struct Contact {
    /// When the server last took a transaction, in milliseconds since the epoch.
    pub success_ts: Option<u64>,
    /// When it last did not, and why; `None` after it took one.
    pub failure: Option<(u64, String)>,
}

pub struct Ledger {
    clock: Clock,
    contacts: Cache<ServerNum, Contact>,
}

impl Ledger {
    pub fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            contacts: Cache::new(clock, MAX_SERVERS),
        }
    }

    pub fn get(&self, server: ServerNum) -> Contact {
        self.contacts.get(&server).unwrap_or_default()
    }

    pub fn succeeded(&self, server: ServerNum) {
        let contact = Contact {
            success_ts: Some(self.clock.now_ms()),
            failure: None,
        };
        self.contacts.insert(server, contact, RETENTION);
    }

    pub fn failed(&self, server: ServerNum, error: &str) {
        let words = error.chars().take(MAX_ERROR_CHARS).collect();
        let contact = Contact {
            failure: Some((self.clock.now_ms(), words)),
            ..self.get(server)
        };
        self.contacts.insert(server, contact, RETENTION);
    }
}
