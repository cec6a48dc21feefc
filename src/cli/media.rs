use std::{path::PathBuf, process::ExitCode};

use argh::FromArgs;

use super::{config, output::print};
use crate::{
    config::{Config, Size},
    logging,
    media::{self, MediaSelector},
    server::{self, Error},
};

/// Show how much space media use, delete or quarantine some. The server must not run meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "media")]
pub(super) struct Media {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Usage(Usage),
    Delete(Delete),
    Quarantine(Quarantine),
}

/// Show how much space the media of each user use.
#[derive(FromArgs)]
#[argh(subcommand, name = "usage")]
struct Usage {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Delete a file and all its media IDs.
#[derive(FromArgs)]
#[argh(subcommand, name = "delete")]
struct Delete {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// its mxc:// URI, or the SHA-256 of its content
    #[argh(positional)]
    file: String,
}

/// Do not serve a file any more, and refuse uploads of it.
#[derive(FromArgs)]
#[argh(subcommand, name = "quarantine")]
struct Quarantine {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// end the quarantine
    #[argh(switch)]
    release: bool,
    /// its mxc:// URI, or the SHA-256 of its content
    #[argh(positional)]
    file: String,
}

impl Media {
    pub(super) fn run(self) -> ExitCode {
        let file = match &self.command {
            Command::Usage(command) => &command.config,
            Command::Delete(command) => &command.config,
            Command::Quarantine(command) => &command.config,
        };
        let config = match config::load(file.as_deref()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let result = match self.command {
            Command::Usage(_) => usage(&config),
            Command::Delete(command) => {
                with_file(&config, &command.file, async |store, selector| {
                    media::delete(store, selector).await
                })
            }
            Command::Quarantine(command) => {
                with_file(&config, &command.file, async |store, selector| {
                    media::quarantine(store, selector, !command.release).await
                })
            }
        };
        match result {
            Ok(output) => {
                print(&output);
                ExitCode::SUCCESS
            }
            Err(error) => {
                log::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

fn with_file(
    config: &Config,
    file: &str,
    action: impl AsyncFnOnce(&crate::store::Store, MediaSelector) -> Result<(), media::Error>,
) -> Result<String, Error> {
    let selector = MediaSelector::parse(file).ok_or(media::Error::Invalid(
        "FILE must be an mxc:// URI or the SHA-256 of its content",
    ))?;
    server::with_store(config, async |store| {
        action(store, selector).await?;
        Ok("done\n".to_owned())
    })
}

fn usage(config: &Config) -> Result<String, Error> {
    server::with_store(config, async |store| {
        let usage = store.read(media::usage)?;
        let line = |size: u64, count: u64, owner: &str| {
            format!(
                "{:>10}  {count:>7}  {owner}\n",
                Size::from(size).to_string()
            )
        };
        let mut text = String::from("      size    files\n");
        for (user, usage) in &usage.users {
            text += &line(usage.bytes, usage.files, user);
        }
        let cached = usage.cached;
        text += &line(cached.bytes, cached.files, "remote media and thumbnails");
        if usage.quarantined_files > 0 {
            text += &format!("{} quarantined\n", usage.quarantined_files);
        }
        Ok(text)
    })
}
