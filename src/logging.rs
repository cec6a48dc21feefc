//! Lines on standard error, one for each thing worth knowing.

use std::{
    io::{self, Write},
    panic,
    time::SystemTime,
};

use log::{LevelFilter, Log, Metadata, Record};

/// Of other crates, only what is wrong.
const OTHERS: LevelFilter = LevelFilter::Warn;

struct Logger {
    level: LevelFilter,
}

/// Logs from here on what is at least as important as `level`, panics included. The first call
/// decides.
pub fn start(level: LevelFilter) {
    if log::set_boxed_logger(Box::new(Logger { level })).is_ok() {
        log::set_max_level(level);
        panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().split("::").next() == Some("hearth");
        let level = if ours {
            self.level
        } else {
            self.level.min(OTHERS)
        };
        metadata.level() <= level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let line = format!(
            "{now} {:5} {}: {}\n",
            record.level(),
            record.target(),
            record.args()
        );
        // Nobody is there to be told that standard error is gone.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
