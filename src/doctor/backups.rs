//! Backups: whether there are any, and how old the last one is.

use std::{os::unix::fs::MetadataExt, path::Path};

use super::finding::Finding;
use crate::backup::Record;

const BACKUP: &str = "backup";
const HOUR_MS: u64 = 60 * 60 * 1000;
/// One is made every night.
const MAX_AGE_MS: u64 = 48 * HOUR_MS;

const AGAIN: &str = "`hearth backup` makes one now, or says why it cannot.";

/// Whether both are on the same disk. Blocks.
pub(super) fn is_same_disk(one: &Path, other: &Path) -> bool {
    let disks = (one.metadata(), other.metadata());
    matches!(disks, (Ok(one), Ok(other)) if one.dev() == other.dev())
}

/// `directory` is `backup_dir`.
pub(super) fn check(
    directory: Option<&Path>,
    record: &Record,
    is_same_disk: bool,
    now_ms: u64,
) -> Finding {
    if let Some(failure) = &record.failure {
        let problem = format!("The last backup failed: {}.", failure.message);
        return Finding::warning(BACKUP, problem, AGAIN);
    }
    let age_ms = record
        .success
        .as_ref()
        .map(|backup| now_ms.saturating_sub(backup.started_ts));
    match (age_ms, directory) {
        (None, None) => Finding::unknown(
            BACKUP,
            "hearth makes no backups; whether somebody else does is not known.",
            "Set `backup_dir`, best to a directory on another disk: then one is made every night.",
        ),
        (None, Some(_)) => Finding::warning(BACKUP, "No backup was made yet.", AGAIN),
        (Some(age_ms), _) if age_ms > MAX_AGE_MS => {
            let days = age_ms / (24 * HOUR_MS);
            let problem = format!("The last backup is {days} days old.");
            let advice = match directory {
                Some(_) => AGAIN,
                None => "Set `backup_dir`: then one is made every night.",
            };
            Finding::warning(BACKUP, problem, advice)
        }
        (Some(age_ms), _) => {
            let seen = format!("The last backup is {} hours old.", age_ms / HOUR_MS);
            let mut finding = Finding::ok(BACKUP, seen);
            if is_same_disk {
                "It is on the disk of `data_dir`: copy it elsewhere too, as a broken disk takes both."
                    .clone_into(&mut finding.advice);
            }
            finding
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{HOUR_MS, check};
    use crate::{
        backup::{Failure, Record, Summary},
        doctor::finding::State,
    };

    fn made_at(started_ts: u64) -> Record {
        let summary = Summary {
            path: "/backups/1".to_owned(),
            started_ts,
            finished_ts: started_ts,
            database_bytes: 0,
            media_files: 0,
            media_bytes: 0,
            missing_media: 0,
        };
        Record {
            success: Some(summary),
            failure: None,
        }
    }

    #[test]
    fn missing_old_and_failed_backups_are_named() {
        let now = 1000 * HOUR_MS;
        let set = Some(Path::new("/backups"));
        let recent = made_at(now - 10 * HOUR_MS);
        let failed = Record {
            failure: Some(Failure {
                ts: now,
                message: "the disk is full".to_owned(),
            }),
            ..recent.clone()
        };
        for (directory, record, state) in [
            (None, Record::default(), State::Unknown),
            (set, Record::default(), State::Warning),
            (set, recent.clone(), State::Ok),
            (None, recent.clone(), State::Ok),
            (set, made_at(now - 49 * HOUR_MS), State::Warning),
            (None, made_at(now - 49 * HOUR_MS), State::Warning),
            (set, failed, State::Warning),
        ] {
            let finding = check(directory, &record, false, now);
            assert_eq!(finding.state, state, "{finding:?}");
            let is_advised = state != State::Ok;
            assert_eq!(finding.advice.is_empty(), !is_advised, "{finding:?}");
        }
        let beside = check(set, &recent, true, now);
        assert!(beside.advice.contains("copy it elsewhere"), "{beside:?}");
    }
}
