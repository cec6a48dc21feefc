//! The check of every night. Administrators get a server notice when it turns red, and one when it is green again.

use std::{sync::Arc, time::Duration};

use ruma::OwnedUserId;
use smol::Timer;

use super::{Doctor, Report, State};
use crate::{
    clock::Clock,
    rooms::{
        self, Local,
        server_notices::{self, ServerNotice},
    },
    store::{self, Reader, Rows, Store, Tx},
    users,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The check is in the first three hours of the day (UTC), at a minute that differs between servers.
const MINUTES: u64 = 180;
/// The key in `facts` of what administrators know: `red`, or nothing.
const KNOWN_STATE: &str = "doctor";
const RED: &str = "red";
/// A lookup may fail once: what is newly red is looked at again after so long, before anybody is woken.
pub const PAUSE: Duration = Duration::from_mins(15);
/// How many findings a notice has.
const MAX_FINDINGS: usize = 10;

/// When the check is.
#[derive(Debug)]
pub struct Night {
    minute: u64,
}

impl Default for Night {
    fn default() -> Self {
        Self {
            minute: rand::random_range(0..MINUTES),
        }
    }
}

impl Night {
    /// Waits until the next check is due.
    pub async fn wait(&self, clock: &Clock) {
        Timer::after(until_next(clock.now_ms(), self.minute)).await;
    }
}

fn until_next(now_ms: u64, minute: u64) -> Duration {
    let due = minute * 60 * 1000;
    let since_midnight = now_ms % DAY_MS;
    let wait = match since_midnight < due {
        true => due - since_midnight,
        false => DAY_MS - since_midnight + due,
    };
    Duration::from_millis(wait)
}

/// Checks, and once more after `pause` ([`PAUSE`]) if it is newly red. Notifies the administrators of a change.
pub async fn check(
    doctor: &Arc<Doctor>,
    store: &Store,
    local: &Local,
    (clock, notices_user): (&Clock, &OwnedUserId),
    pause: impl Future<Output = ()>,
) {
    let Some(mut report) = look(doctor).await else {
        return;
    };
    // If the disk fails, the write below says so.
    let is_known_red = store.read(is_known_red).unwrap_or(true);
    if !report.green && !is_known_red {
        pause.await;
        let Some(second) = look(doctor).await else {
            return;
        };
        report = second;
    }
    for finding in report.findings.iter().filter(|it| it.state == State::Error) {
        log::warn!("doctor: {} {}", finding.problem, finding.advice);
    }
    let (local, sender, now) = (local.clone(), notices_user.clone(), clock.timestamp());
    let notify = move |tx: &Tx| notify(tx, &local, (&sender, now), &report);
    if let Err(error) = store.write(notify).await {
        log::warn!(
            "administrators cannot be notified of what the check of the night found: {error}"
        );
    }
}

async fn look(doctor: &Arc<Doctor>) -> Option<Arc<Report>> {
    let (_, progress) = doctor.start(true);
    progress.finished().await;
    progress.result()
}

fn is_known_red(r: &impl Reader) -> Result<bool, store::Error> {
    Ok(r.facts()?.get(KNOWN_STATE)?.is_some())
}

fn notify(
    tx: &Tx,
    local: &Local,
    sender: (&OwnedUserId, ruma::MilliSecondsSinceUnixEpoch),
    report: &Report,
) -> Result<(), rooms::Error> {
    if is_known_red(tx)? != report.green {
        return Ok(());
    }
    match report.green {
        true => drop(tx.facts()?.remove(KNOWN_STATE)?),
        false => drop(tx.facts()?.insert(KNOWN_STATE, RED)?),
    }
    let notice = ServerNotice::message(&words(report))?;
    let mut administrators = Vec::new();
    for row in tx.accounts()?.all()? {
        let (user, account) = row?;
        let account = account.record(&user)?;
        if account.admin && !account.deactivated {
            administrators.push(user.value());
        }
    }
    for user in administrators {
        let target = users::id_of(tx, user)?;
        let (from, now) = sender;
        server_notices::send(tx, local, (from, now), &target, &notice, None)?;
    }
    Ok(())
}

fn words(report: &Report) -> String {
    if report.green {
        return "The check of the night found nothing wrong any more.".to_owned();
    }
    let mut words =
        "The check of the night found that something is wrong with this server:\n".to_owned();
    let errors = report.findings.iter().filter(|it| it.state == State::Error);
    for finding in errors.take(MAX_FINDINGS) {
        words += &format!("\n- {} {}", finding.problem, finding.advice);
    }
    words += "\n\n`hearth doctor` on the server looks again.";
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DAY_MS, until_next};

    #[test]
    fn each_day_has_one_check() {
        let hour = Duration::from_hours(1);
        assert_eq!(until_next(DAY_MS * 7, 60), hour);
        assert_eq!(until_next(DAY_MS * 7 + 3_600_000, 60), 24 * hour);
        assert_eq!(until_next(DAY_MS * 8 - 3_600_000, 60), 2 * hour);
    }
}
