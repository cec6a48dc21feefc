//! Lines on standard error, one for each thing worth knowing: with a time for whoever reads them
//! there, with a priority for the journal.

use std::{
    io::{self, Write},
    panic,
    time::SystemTime,
};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::systemd;

/// Of other crates, only what is wrong.
const OTHERS: LevelFilter = LevelFilter::Warn;

struct Logger {
    level: LevelFilter,
    line: fn(&Record<'_>) -> String,
}

/// Logs from here on what is at least as important as `level`, panics included. The first call
/// decides.
pub fn start(level: LevelFilter) {
    let line = if systemd::journal_reads_stderr() {
        for_journal
    } else {
        for_people
    };
    if log::set_boxed_logger(Box::new(Logger { level, line })).is_ok() {
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
        // Nobody is there to be told that standard error is gone.
        let _ = io::stderr().write_all((self.line)(record).as_bytes());
    }

    fn flush(&self) {}
}

fn for_people(record: &Record<'_>) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let (level, target) = (record.level(), record.target());
    format!("{now} {level:5} {target}: {}\n", record.args())
}

/// The journal knows the time, and takes each line for a message of its own: sd-daemon(3).
fn for_journal(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let text = format!("{}: {}", record.target(), record.args());
    let lines = text.lines().map(|line| format!("<{priority}>{line}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use log::{Level, Record};

    use super::for_journal;

    #[test]
    fn the_journal_gets_a_priority_with_every_line() {
        let mut record = Record::builder();
        record.target("hearth::disk");
        let text = for_journal(
            &record
                .level(Level::Warn)
                .args(format_args!("full\n  soon"))
                .build(),
        );
        assert_eq!(text, "<4>hearth::disk: full\n<4>  soon\n");
    }
}
