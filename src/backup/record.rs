//! What is known of the last backups: a row of `facts`, for `hearth status` and the doctor.

use serde::{Deserialize, Serialize};

use crate::store::{self, Reader, Rows, Tx};

/// The key in `facts`.
const KEY: &str = "backup";

/// The last backup, and the last failure after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub success: Option<Summary>,
    pub failure: Option<Failure>,
}

/// A backup that was made. Sizes are in bytes, times in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its own path.
    pub path: String,
    /// The database is as of then.
    pub started_ts: u64,
    pub finished_ts: u64,
    pub database_bytes: u64,
    pub media_files: u64,
    pub media_bytes: u64,
    /// How many files of media were not there, or damaged.
    pub missing_media: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub ts: u64,
    pub message: String,
}

impl Record {
    pub fn load(r: &impl Reader) -> Result<Self, store::Error> {
        let facts = r.facts()?;
        let Some(row) = facts.get(KEY)? else {
            return Ok(Self::default());
        };
        serde_json::from_str(row.value())
            .map_err(|_| store::Error::corrupt("facts", KEY, "does not decode"))
    }

    fn store(&self, tx: &Tx) -> Result<(), store::Error> {
        let json = serde_json::to_string(self)
            .map_err(|_| store::Error::NotSerializable("the result of a backup"))?;
        tx.facts()?.insert(KEY, &*json)
    }
}

pub(super) fn succeeded(tx: &Tx, summary: &Summary) -> Result<(), store::Error> {
    let record = Record {
        success: Some(summary.clone()),
        failure: None,
    };
    record.store(tx)
}

pub(super) fn failed(tx: &Tx, failure: &Failure) -> Result<(), store::Error> {
    let record = Record {
        failure: Some(failure.clone()),
        ..Record::load(tx)?
    };
    record.store(tx)
}
