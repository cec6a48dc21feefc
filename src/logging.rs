//! The log on standard error: with a time in a terminal, with a priority for the journal.

use std::{
    io::{self, Write},
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::systemd;

/// For other crates.
const MAX_DEPENDENCY_LEVEL: LevelFilter = LevelFilter::Warn;

/// How often the level was changed while the server ran.
static CHANGES: AtomicUsize = AtomicUsize::new(0);

struct Logger {
    line: fn(&Record<'_>) -> String,
}

/// Starts logging at `level`, panics included. Only the first call has an effect.
pub fn start(level: LevelFilter) {
    let line = if systemd::journal_reads_stderr() {
        for_journal
    } else {
        for_terminal
    };
    if log::set_boxed_logger(Box::new(Logger { line })).is_ok() {
        log::set_max_level(level);
        panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
}

/// Changes the level. Returns the number of the change.
pub fn change_level(level: LevelFilter) -> usize {
    log::set_max_level(level);
    CHANGES.fetch_add(1, Ordering::Relaxed) + 1
}

/// Sets the level to `level` again, unless there was another change since `change`.
pub fn end_change(change: usize, level: LevelFilter) {
    if CHANGES.load(Ordering::Relaxed) == change {
        log::set_max_level(level);
        log::info!("the log has the level {level} again");
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_hearth = metadata.target().split("::").next() == Some("hearth");
        let level = if is_hearth {
            log::max_level()
        } else {
            log::max_level().min(MAX_DEPENDENCY_LEVEL)
        };
        metadata.level() <= level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // There is nowhere to report that standard error is closed.
        let _ = io::stderr().write_all((self.line)(record).as_bytes());
    }

    fn flush(&self) {}
}

fn for_terminal(record: &Record<'_>) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let (level, target) = (record.level(), record.target());
    format!("{now} {level:5} {target}: {}\n", record.args())
}

/// The journal adds the time, and each line is a message with a priority: sd-daemon(3).
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
    fn every_line_for_the_journal_has_a_priority() {
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
