//! What is known of the names and their certificates.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::ClientConfig;
use smol::channel::{Receiver, Sender};

use super::{
    attempts::{Attempts, MAX_BACKOFF},
    files::Files,
    issued::Issued,
    resolver::Resolver,
};
use crate::{
    clock::{Clock, as_ms},
    config,
};

pub(super) struct Inner {
    pub(super) settings: config::Acme,
    pub(super) files: Files,
    /// How the authority is connected to.
    pub(super) client: Arc<ClientConfig>,
    pub(super) clock: Clock,
    pub(super) resolver: Arc<Resolver>,
    pub(super) names: Mutex<BTreeMap<String, Name>>,
    pub(super) wake: (Sender<()>, Receiver<()>),
}

/// What is known of a name.
#[derive(Clone, Default)]
pub(super) struct Name {
    pub(super) issued: Option<Arc<Issued>>,
    pub(super) attempts: Attempts,
}

impl Inner {
    pub(super) fn names(&self) -> MutexGuard<'_, BTreeMap<String, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self, name: &str) -> Name {
        self.names().get(name).cloned().unwrap_or_default()
    }
}

impl Name {
    /// When the next order is due.
    pub(super) fn order_at_ms(&self, directory: &str, now_ms: u64) -> u64 {
        // A certificate that is not there any more is no failure to be waited out.
        let is_lost = self.issued.is_none() && self.attempts.failures == 0;
        if is_lost || self.attempts.directory != directory {
            return 0;
        }
        let of_validity = self
            .issued
            .as_ref()
            .map_or(0, |issued| issued.renew_at_ms());
        let due_ms = match self.attempts.renew_at_ms {
            Some(suggested) => suggested.min(of_validity),
            None => of_validity,
        };
        // What is further away was noted while the clock was wrong.
        let is_plausible = self.attempts.retry_at_ms <= now_ms + as_ms(MAX_BACKOFF);
        due_ms.max(if is_plausible {
            self.attempts.retry_at_ms
        } else {
            0
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Name;
    use crate::{
        acme::{attempts::Attempts, failure::Failure},
        clock::as_ms,
    };

    const DIRECTORY: &str = "https://authority.example/directory";
    const NOW_MS: u64 = 1_800_000_000_000;

    fn attempts() -> Attempts {
        Attempts {
            directory: DIRECTORY.to_owned(),
            ..Attempts::default()
        }
    }

    fn order_at_ms(attempts: Attempts) -> u64 {
        let name = Name {
            issued: None,
            attempts,
        };
        name.order_at_ms(DIRECTORY, NOW_MS)
    }

    #[test]
    fn backoff_doubles_up_to_a_day_and_allows_five_failures_an_hour_at_most() {
        let failure = Failure::timed_out();
        let mut attempts = attempts();
        let mut minutes = Vec::new();
        for _ in 0..9 {
            attempts.failed(&failure, NOW_MS);
            minutes.push((order_at_ms(attempts.clone()) - NOW_MS) / 60_000);
        }
        assert_eq!(minutes, [12, 24, 48, 96, 192, 384, 768, 1440, 1440]);
    }

    #[test]
    fn an_authority_that_wants_fewer_orders_is_left_alone_for_hours() {
        let failure = Failure {
            is_rate_limited: true,
            ..Failure::timed_out()
        };
        let mut attempts = attempts();
        attempts.failed(&failure, NOW_MS);
        assert_eq!(
            order_at_ms(attempts),
            NOW_MS + as_ms(Duration::from_hours(3))
        );
    }

    #[test]
    fn a_backoff_that_was_noted_with_a_clock_of_the_future_does_not_count() {
        let mut attempts = attempts();
        attempts.failed(
            &Failure::timed_out(),
            NOW_MS + as_ms(Duration::from_hours(1000)),
        );
        assert!(order_at_ms(attempts) <= NOW_MS);
    }

    #[test]
    fn the_failures_of_another_authority_do_not_count() {
        let mut attempts = attempts();
        attempts.failed(&Failure::timed_out(), NOW_MS);
        attempts.directory = "https://other.example/".to_owned();
        assert!(order_at_ms(attempts) <= NOW_MS);
    }
}
