use std::{path::PathBuf, process::ExitCode};

use argh::FromArgs;

use super::config;
use crate::{
    config::{Config, Size},
    logging,
    media::{self, MediaSelector},
    server::{self, Error},
};

/// See who takes up how much with pictures and files, and take some of them away. The server must not
/// run meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "media")]
pub(super) struct Media {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Usage(Usage),
    Delete(Delete),
    Quarantine(Quarantine),
}

/// Tell who takes up how much.
#[derive(FromArgs)]
#[argh(subcommand, name = "usage")]
struct Usage {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Delete a file, under whatever addresses it is known.
#[derive(FromArgs)]
#[argh(subcommand, name = "delete")]
struct Delete {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// its address (mxc://…), or the SHA-256 of its content
    #[argh(positional)]
    file: String,
}

/// Keep a file from everybody, and do not take it again.
#[derive(FromArgs)]
#[argh(subcommand, name = "quarantine")]
struct Quarantine {
    /// the file with the settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// let the file go again
    #[argh(switch)]
    release: bool,
    /// its address (mxc://…), or the SHA-256 of its content
    #[argh(positional)]
    file: String,
}

impl Media {
    pub(super) fn run(self) -> ExitCode {
        let file = match &self.what {
            What::Usage(what) => &what.config,
            What::Delete(what) => &what.config,
            What::Quarantine(what) => &what.config,
        };
        let config = match config(file.as_deref()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let done = match self.what {
            What::Usage(_) => usage(&config),
            What::Delete(what) => on(&config, &what.file, async |store, named| {
                media::delete(store, named).await
            }),
            What::Quarantine(what) => on(&config, &what.file, async |store, named| {
                media::quarantine(store, named, !what.release).await
            }),
        };
        match done {
            Ok(said) => {
                print!("{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                log::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

fn on(
    config: &Config,
    file: &str,
    work: impl AsyncFnOnce(&crate::store::Store, MediaSelector) -> Result<(), media::Error>,
) -> Result<String, Error> {
    let named = MediaSelector::parse(file).ok_or(media::Error::Invalid(
        "name a file by its address (mxc://…) or by the SHA-256 of its content",
    ))?;
    server::with_data(config, async |store| {
        work(store, named).await?;
        Ok("done\n".to_owned())
    })
}

fn usage(config: &Config) -> Result<String, Error> {
    server::with_data(config, async |store| {
        let usage = store.read(media::usage)?;
        let line = |size: u64, count: u64, whose: &str| {
            format!(
                "{:>10}  {count:>7}  {whose}\n",
                Size::from(size).to_string()
            )
        };
        let mut text = String::from("      size    files\n");
        for (user, usage) in &usage.users {
            text += &line(usage.bytes, usage.files, user);
        }
        let cached = usage.cached;
        text += &line(
            cached.bytes,
            cached.files,
            "of other servers, and thumbnails",
        );
        if usage.quarantined_files > 0 {
            text += &format!("{} quarantined\n", usage.quarantined_files);
        }
        Ok(text)
    })
}
