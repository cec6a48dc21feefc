use std::{path::PathBuf, process::ExitCode};

use argh::FromArgs;

use super::{config, output::finish};
use crate::{clock::Clock, logging, rooms::Local, server};

/// Replace the server's signing key, when somebody else may have it. The server must not run meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "rotate-key")]
pub(super) struct RotateKey {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
}

impl RotateKey {
    pub(super) fn run(self) -> ExitCode {
        let config = match config::load(self.config.as_deref()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let name = config.server_name.clone();
        let rotated = server::with_store(&config, async |store| {
            Ok(Local::rotate_key(store, name, Clock::default().now_ms()).await?)
        });
        match rotated {
            Ok((before, now)) => {
                let mut text = format!(
                    "{} signs with {now} after its next start\n",
                    config.server_name
                );
                if let Some(before) = before {
                    text += &format!("{before} is published as an old key\n");
                }
                finish(&text)
            }
            Err(error) => {
                log::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}
