//! Servers that have not answered for a while: whoever needs them is told at once that they do not answer,
//! until they show life or it is time to try them again (`sender/rest.rs`).

use ruma::ServerName;

use super::rest;
use crate::{
    clock::Clock,
    federation::Error,
    rooms::{self, servers},
    store::{Reader, Store, records::Rest},
};

/// Knows for whom nobody is to wait. Clones are the same.
#[derive(Clone)]
pub struct Patience {
    store: Store,
    clock: Clock,
}

impl Patience {
    /// Knows it from `store`.
    pub fn new(store: &Store, clock: &Clock) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
        }
    }

    /// Nothing, if `server` can be waited for.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if not.
    pub fn check(&self, server: &ServerName) -> Result<(), Error> {
        let rest = self.store.read(|s| rest_of(s, server));
        let rest = rest.map_err(|error| Error::Disk(error.to_string().into()))?;
        let now = self.clock.now_ms();
        if rest.is_some_and(|rest| rest::is_long(&rest, now)) {
            return Err(Error::Unreachable("it has not answered lately".into()));
        }
        Ok(())
    }
}

fn rest_of(r: &impl Reader, server: &ServerName) -> Result<Option<Rest>, rooms::Error> {
    match servers::num(r, server)? {
        Some(server) => rest::of(r, server),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::server_name;

    use super::{Patience, rest};
    use crate::{
        clock::Clock,
        executor::Executor,
        pool::Pool,
        rooms,
        store::{Options, Store, Tx, records::Rest},
    };

    #[test]
    fn nobody_waits_for_a_server_that_rests_for_long_until_it_shows_life_or_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 1 << 20,
        };
        let store = Store::open(&options, Pool::default()).unwrap();
        let executor = Executor::default();
        executor.spawn(store.clone().publish(|_| ())).detach();
        let clock = Clock::manual(1_000_000);
        let patience = Patience::new(&store, &clock);
        let server = server_name!("b.example");
        let is_waited_for = || patience.check(server).is_ok();
        let note = |minutes: Option<u64>| {
            let now = clock.now_ms();
            let job = move |tx: &Tx| {
                let server = tx.server_num("b.example")?;
                let Some(lasts_ms) = minutes.map(|minutes| minutes * 60_000) else {
                    return rest::end(tx, server);
                };
                let until_ts = now + lasts_ms;
                rest::put(tx, server, &Rest { lasts_ms, until_ts }, now)
            };
            let noted = executor.run(store.write::<_, rooms::Error, _>(job));
            smol::block_on(noted).unwrap();
        };
        assert!(is_waited_for());
        note(Some(1));
        assert!(is_waited_for());
        note(Some(10));
        assert!(!is_waited_for());
        note(None);
        assert!(is_waited_for());
        note(Some(10));
        assert!(!is_waited_for());
        clock.advance(Duration::from_mins(10));
        assert!(is_waited_for());
    }
}
