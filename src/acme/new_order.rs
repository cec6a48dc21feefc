//! One order: a certificate for one name, by one kind of challenge.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustls_acme::{AccountCache, AcmeConfig, CertCache, EventError, EventOk, UseChallenge};
use smol::{Timer, future, stream::StreamExt};

use super::{failure::Failure, files::Files, inner::Inner};

/// The authority checks from several places, which takes seconds.
const TIMEOUT: Duration = Duration::from_mins(5);

/// What an order reads and writes: always the same account, never an old certificate.
struct OrderCache {
    files: Files,
    issued: Arc<Mutex<Option<Vec<u8>>>>,
}

#[async_trait]
impl CertCache for OrderCache {
    type EC = io::Error;

    async fn load_cert(&self, _: &[String], _: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    async fn store_cert(&self, _: &[String], _: &str, certificate: &[u8]) -> io::Result<()> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        *issued = Some(certificate.to_vec());
        Ok(())
    }
}

#[async_trait]
impl AccountCache for OrderCache {
    type EA = io::Error;

    async fn load_account(&self, _: &[String], _: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.account_key().await
    }

    async fn store_account(&self, _: &[String], _: &str, key: &[u8]) -> io::Result<()> {
        self.files.write_account_key(key).await
    }
}

/// Orders a certificate for `name`. Returns it as PEM, with its key before it.
pub(super) async fn order(
    acme: &Inner,
    name: &str,
    challenge: UseChallenge,
) -> Result<Vec<u8>, Failure> {
    let issued = Arc::<Mutex<Option<Vec<u8>>>>::default();
    let cache = OrderCache {
        files: acme.files.clone(),
        issued: issued.clone(),
    };
    let mut state = AcmeConfig::new_with_client_config([name], acme.client.clone())
        .contact_push(format!("mailto:{}", acme.settings.contact))
        .directory(&acme.settings.directory)
        .challenge_type(challenge)
        .cache(cache)
        .state();
    acme.resolver.set_challenge(Some(state.resolver()));
    // The state would try again after seconds, and renew by itself: it is dropped after one order.
    let ordering = async {
        loop {
            match state.next().await {
                Some(Ok(EventOk::CertCacheStore)) => {
                    let mut issued = issued.lock().unwrap_or_else(PoisonError::into_inner);
                    return issued.take().ok_or_else(Failure::unfinished);
                }
                Some(Ok(_)) => {}
                Some(Err(
                    EventError::AccountCacheStore(error) | EventError::AccountCacheLoad(error),
                )) => {
                    return Err(Failure::disk(&error));
                }
                Some(Err(error)) => return Err(Failure::of(&error)),
                None => return Err(Failure::unfinished()),
            }
        }
    };
    let timed_out = async {
        Timer::after(TIMEOUT).await;
        Err(Failure::timed_out())
    };
    let result = future::or(ordering, timed_out).await;
    acme.resolver.set_challenge(None);
    result
}
