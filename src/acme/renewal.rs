//! When certificates are ordered.
//!
//! A certificate is renewed at the time that the authority suggests, or when a third of its time is left.
//! After a failure the next order waits ([`super::attempts`]). An order counts as failed from its beginning,
//! and failures are kept over restarts, so that a server that is restarted again and again waits too.

use std::{
    fmt,
    time::{Duration, Instant, UNIX_EPOCH},
};

use rustls_acme::UseChallenge;
use smol::{Timer, future};

use super::{
    attempts::{Attempts, FIRST_BACKOFF},
    authority::{AuthorityError, Directory},
    failure::Failure,
    inner::{Inner, Name},
    issued::Issued,
    new_order::order,
};
use crate::clock::as_ms;

/// How often the authority is asked when it suggests to renew.
const INFO_INTERVAL: Duration = Duration::from_hours(12);
/// The clock may be set meanwhile: due times are looked at again after this.
const MAX_SLEEP: Duration = Duration::from_mins(10);
/// How often a nonce that the authority does not know any more is replaced in one order.
const MAX_PASSING_FAILURES: usize = 3;
/// Each order that the owner asks for may count as a failure with the authority.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// How often the log says that there is no certificate, if the reason stays.
const LOG_INTERVAL: Duration = Duration::from_hours(24);

/// The words in the log for each name, and when they were written.
type Logged = Vec<(String, String, Instant)>;

pub(super) async fn run(acme: &Inner) {
    let mut logged = Logged::new();
    let mut info_requested_at = None::<Instant>;
    let mut retried_at = None::<Instant>;
    loop {
        if info_requested_at.is_none_or(|at| at.elapsed() >= INFO_INTERVAL) {
            info_requested_at = Some(Instant::now());
            update_renewal_info(acme).await;
        }
        let now_ms = acme.clock.now_ms();
        let mut next_ms = u64::MAX;
        for name in &acme.settings.names {
            let directory = &acme.settings.directory;
            let mut due_ms = acme.name(name).order_at_ms(directory, now_ms);
            if due_ms <= now_ms {
                order_for(acme, name, &mut logged).await;
                due_ms = acme.name(name).order_at_ms(directory, now_ms);
            }
            next_ms = next_ms.min(due_ms);
        }
        let until = Duration::from_millis(next_ms.saturating_sub(acme.clock.now_ms()));
        let slept = async {
            Timer::after(until.min(MAX_SLEEP)).await;
        };
        let woken = async {
            // The sender lives as long as the receiver.
            let _ = acme.wake.1.recv().await;
            if retried_at.is_some_and(|at| at.elapsed() < RETRY_INTERVAL) {
                log::warn!("TLS certificates are ordered once a minute at most: not now");
                return;
            }
            (retried_at, info_requested_at) = (Some(Instant::now()), None);
            // The log says what becomes of it.
            logged.clear();
            for name in acme.names().values_mut() {
                name.attempts.retry_at_ms = 0;
                name.attempts.failures = name.attempts.failures.min(1);
            }
        };
        future::or(slept, woken).await;
    }
}

/// Notes when the authority suggests to renew the certificates. It may have to revoke one.
async fn update_renewal_info(acme: &Inner) {
    let ids: Vec<_> = acme
        .names()
        .iter()
        .filter_map(|(name, state)| {
            let id = state.issued.as_ref()?.renewal_id.clone()?;
            Some((name.clone(), id))
        })
        .collect();
    if ids.is_empty() {
        return;
    }
    let suggested = async {
        let directory = Directory::get(&acme.client, &acme.settings.directory).await?;
        for (name, id) in ids {
            let renew_at_ms = directory.renew_at_ms(&acme.client, &id).await?;
            if let Some(state) = acme.names().get_mut(&name) {
                state.attempts.renew_at_ms = renew_at_ms;
            }
        }
        Ok::<_, AuthorityError>(())
    };
    if let Err(error) = suggested.await {
        log::debug!("the authority does not say when to renew the certificates: {error}");
    }
}

async fn order_for(acme: &Inner, name: &str, logged: &mut Logged) {
    let mut state = acme.name(name);
    if state.attempts.directory != acme.settings.directory {
        state.attempts = Attempts {
            directory: acme.settings.directory.clone(),
            ..Attempts::default()
        };
    }
    log::info!("ordering a TLS certificate for {name}");
    let before = state.attempts.clone();
    state
        .attempts
        .failed(&Failure::unfinished(), acme.clock.now_ms());
    write_attempts(acme, name, &state.attempts).await;
    state.attempts = before;
    let ordered = issue(acme, name, state.attempts.failures).await;
    let now_ms = acme.clock.now_ms();
    match ordered {
        Ok(issued) => {
            acme.resolver.set(name, issued.key.clone());
            log::info!(
                "{name} has a TLS certificate until {}",
                date(issued.not_after_ms)
            );
            if issued.not_before_ms > now_ms || issued.not_after_ms < now_ms {
                log::warn!(
                    "the new certificate of {name} is not valid at the time that this machine has ({}): set \
                     its clock",
                    date(now_ms)
                );
            }
            state.attempts.failures = 0;
            state.attempts.failure = None;
            // An authority whose certificates are always due, or a wrong clock, is no loop of orders.
            state.attempts.retry_at_ms = now_ms + as_ms(FIRST_BACKOFF);
            state.attempts.renew_at_ms = None;
            state.issued = Some(issued.into());
        }
        Err(failure) => {
            state.attempts.failed(&failure, now_ms);
            let is_first = acme
                .settings
                .names
                .first()
                .is_some_and(|first| first == name);
            log_failure(name, &state, is_first, now_ms, logged);
        }
    }
    write_attempts(acme, name, &state.attempts).await;
    acme.names().insert(name.to_owned(), state);
}

async fn write_attempts(acme: &Inner, name: &str, attempts: &Attempts) {
    if let Err(error) = acme.files.write_attempts(name, attempts).await {
        log::warn!("what became of the order for {name} cannot be written: {error}");
    }
}

/// Orders a certificate and writes it. Where port 80 is listened on, each second try is by HTTP-01.
async fn issue(acme: &Inner, name: &str, failures: u32) -> Result<Issued, Failure> {
    // The order begins with the same request, and does not say as well why it fails.
    let directory = Directory::get(&acme.client, &acme.settings.directory).await;
    directory.map_err(|error| Failure::of_authority(&error))?;
    let is_by_http = acme.settings.http && failures % 2 == 1;
    let challenge = || match is_by_http {
        true => UseChallenge::Http01,
        false => UseChallenge::TlsAlpn01,
    };
    let mut passing_failures = 0;
    let pem = loop {
        match order(acme, name, challenge()).await {
            Err(failure) if failure.is_passing && passing_failures < MAX_PASSING_FAILURES => {
                passing_failures += 1;
            }
            ordered => break ordered?,
        }
    };
    let issued = Issued::parse(&pem, name).map_err(|error| Failure::malformed(&error))?;
    let written = acme.files.write_certificate(name, pem).await;
    // It can be used although a restart will not find it.
    if let Err(error) = written {
        log::warn!(
            "the certificate of {name} cannot be kept: {}",
            Failure::disk(&error).words
        );
    }
    Ok(issued)
}

/// A warning once a day, or when the reason changes.
fn log_failure(name: &str, state: &Name, is_first: bool, now_ms: u64, logged: &mut Logged) {
    let Some(words) = &state.attempts.failure else {
        return;
    };
    let is_known = logged
        .iter()
        .any(|(of, logged, at)| of == name && logged == words && at.elapsed() < LOG_INTERVAL);
    let (what, consequence) = match &state.issued {
        Some(issued) => {
            let date = date(issued.not_after_ms);
            let consequence = match issued.not_after_ms < now_ms {
                true => format!("the old one was valid until {date}"),
                false => format!("the old one is valid until {date}"),
            };
            ("no new TLS certificate", consequence)
        }
        None => {
            let consequence = match is_first {
                true => format!("nobody can connect to https://{name}"),
                false => {
                    format!("that is as it should be if https://{name} is on another machine")
                }
            };
            ("no TLS certificate", consequence)
        }
    };
    let level = if is_known {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    log::log!(
        level,
        "{what} for {name}: {words}. {consequence}; the next try is at {}, or at once on SIGHUP",
        date(state.attempts.retry_at_ms)
    );
    if !is_known {
        logged.retain(|(of, ..)| of != name);
        logged.push((name.to_owned(), words.clone(), Instant::now()));
    }
}

fn date(ms: u64) -> impl fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms))
}
