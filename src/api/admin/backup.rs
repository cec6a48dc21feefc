//! Backups.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use smol::{Timer, future};

use crate::api::{Api, Error};

/// How long a request waits for the end of the backup.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Make {
    /// A backup that another request has started. Without it, one is started.
    run: Option<u64>,
    /// Where to; `backup_dir` without it.
    directory: Option<PathBuf>,
    /// How many backups are kept.
    keep: Option<usize>,
}

/// Starts a backup, or waits a moment for one. The response has what was made, or else what it waits for.
pub async fn make(api: Api, request: Make) -> Result<Value, Error> {
    let (run, progress) = match request.run {
        None => {
            let started = api.backups.start(request.directory, request.keep);
            started.map_err(|error| Error::invalid_param(error.to_string()))?
        }
        Some(run) => {
            let progress = api.backups.run(run);
            let ended = || {
                Error::not_found(
                    "another backup has begun since; `hearth status` shows the last one",
                )
            };
            (run, progress.ok_or_else(ended)?)
        }
    };
    let timeout = async {
        Timer::after(WAIT).await;
    };
    future::or(progress.finished(), timeout).await;
    match progress.result().as_deref() {
        Some(Ok(summary)) => Ok(json!({ "run": run, "backup": summary })),
        Some(Err(error)) => Err(Error::unknown(error.to_string())),
        None => Ok(json!({ "run": run, "waiting_for": progress.steps() })),
    }
}
