//! The log.

use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;
use serde_json::{Value, json};
use smol::Timer;

use crate::{
    api::{Api, Error},
    logging,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    level: LevelFilter,
    /// For how many milliseconds; `None`: until the server stops.
    for_ms: Option<u64>,
}

/// Changes how much the log has; then the setting holds again.
pub async fn set_level(api: Api, Level { level, for_ms }: Level) -> Result<Value, Error> {
    let change = logging::change_level(level);
    log::info!("the log has the level {level}, at the owner's request");
    if let Some(ms) = for_ms {
        let setting = api.config.log;
        api.federation.spawn(async move {
            Timer::after(Duration::from_millis(ms)).await;
            logging::end_change(change, setting);
        });
    }
    Ok(json!({ "level": level, "for_ms": for_ms }))
}
