//! The check of the set-up.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use smol::{Timer, future};

use crate::api::{Api, Error};

/// How long a request waits for the report.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A run that another request has started. Without it, one is started.
    run: Option<u64>,
    /// Whether this process has no listeners.
    #[serde(default)]
    is_stopped: bool,
}

/// Starts a check, or waits a moment for one. The response has its report, or else what it waits for.
pub async fn check(api: Api, request: Check) -> Result<Value, Error> {
    let (run, progress) = match request.run {
        None => api.doctor.start(!request.is_stopped),
        Some(run) => {
            let progress = api.doctor.run(run);
            let ended = || Error::not_found("another check has begun since; run the command again");
            (run, progress.ok_or_else(ended)?)
        }
    };
    let timeout = async {
        Timer::after(WAIT).await;
    };
    future::or(progress.finished(), timeout).await;
    Ok(match progress.result() {
        Some(report) => json!({ "run": run, "report": *report }),
        None => json!({ "run": run, "waiting_for": progress.steps() }),
    })
}
