use std::{process::ExitCode, time::Duration};

use log::LevelFilter;
use serde_json::{Value, json};

use super::admin::{Admin, Error, command};
use crate::clock::as_ms;

command! {
    /// Change how much the log of the running server has.
    Log "log" {
        /// for how long, such as 10m (default: until the server stops)
        #[argh(option, long = "for", from_str_fn(duration))]
        duration: Option<Duration>,
        /// error, warn, info, debug or trace
        #[argh(positional)]
        level: LevelFilter,
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

impl Log {
    pub(super) fn run(self) -> ExitCode {
        let level = self.level.as_str().to_lowercase();
        let request = json!({ "level": level, "for_ms": self.duration.map(as_ms) });
        let action = async |admin: &Admin<'_>| {
            if let Admin::Offline(_) = admin {
                return Err(Error::Refused(
                    "the server is not running; its next start has the level of `log` in hearth.toml"
                        .to_owned(),
                ));
            }
            admin.request("log", &request).await
        };
        let show = |_: &Value| format!("The log has the level {level} now.\n");
        self.options().run_with(action, show)
    }
}
