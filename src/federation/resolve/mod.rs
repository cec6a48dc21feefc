//! From a server's name to where it is: [server-server API, "Resolving server names"].
//!
//! [`Search`] goes through the specification's steps each time it is asked, [`Resolver`] remembers
//! what came out.
//!
//! [server-server API, "Resolving server names"]: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names

mod order;
mod search;
#[cfg(test)]
mod tests;
mod well_known;

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName};

pub use self::search::{Ports, Search};
use self::search::{Whereabouts, target};
use super::{
    Error,
    connect::{Target, in_time},
    remembered::Remembered,
};
use crate::clock::Clock;

/// How long a search may take.
const SEARCH: Duration = Duration::from_secs(20);
/// How many servers' whereabouts are remembered, and how much memory they take: an address has 32
/// bytes, and a server hardly ten of them.
const REMEMBERED: usize = 1000;
const BYTES: usize = 1024 * 1024;
const BYTES_EACH: usize = 512;
/// How long it is remembered that a server was not found.
const FAILED: Duration = Duration::from_mins(1);

/// Finds servers.
pub struct Resolver {
    search: Search,
    recent: Remembered<OwnedServerName, Result<Arc<Whereabouts>, Error>>,
}

impl Resolver {
    /// Remembers what `search` finds.
    pub fn new(search: Search, clock: &Clock) -> Self {
        Self {
            search,
            recent: Remembered::new(clock, REMEMBERED, BYTES),
        }
    }

    /// Where the server `name` is.
    pub async fn resolve(&self, name: &ServerName) -> Result<Target, Error> {
        let found = match self.recent.get(name) {
            Some(found) => found,
            None => self.look_up(name).await,
        };
        Ok(target(name, &*found?))
    }

    async fn look_up(&self, name: &ServerName) -> Result<Arc<Whereabouts>, Error> {
        let found = in_time(SEARCH, Box::pin(self.search.find(name))).await;
        let found = found.flatten().map(Arc::new);
        let holds = found.as_ref().map_or(FAILED, |found| found.holds);
        self.recent
            .put(name.to_owned(), found.clone(), BYTES_EACH, holds);
        found
    }
}
