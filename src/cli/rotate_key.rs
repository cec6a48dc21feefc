use std::{path::PathBuf, process::ExitCode};

use argh::FromArgs;

use super::config;
use crate::{clock::Clock, logging, rooms::Local, server};

/// Give the server a new key to sign with, when somebody else may have the one it has. The server
/// must not run meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "rotate-key")]
pub(super) struct RotateKey {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
}

impl RotateKey {
    pub(super) fn run(self) -> ExitCode {
        let config = match config(self.config.as_deref()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let name = config.server_name.clone();
        let rotated = server::with_data(&config, async |store| {
            Ok(Local::rotate_key(store, name, Clock::default().now_ms()).await?)
        });
        match rotated {
            Ok((before, now)) => {
                println!(
                    "{} signs with {now} from its next start on",
                    config.server_name
                );
                if let Some(before) = before {
                    println!("{before} is known to others as a key of the past");
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                log::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}
