//! Starting the service.

use super::{error::Error, rows, service::Media};
use crate::{
    clock::Clock,
    config::Config,
    executor::Executor,
    pool::Pool,
    store::{Effect, Store},
};

impl Media {
    /// The media beside the database in `store`. Removes files that a crash left without rows.
    pub async fn start(
        config: &Config,
        store: &Store,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Result<Self, Error> {
        let media = Self::new(config, store, clock, pool, executor);
        for file in media.0.files.take_intents().await? {
            if !store.read(|s| rows::is_known(s, file))? {
                media.0.files.remove(file).await?;
            }
        }
        media.apply(&Effect::MediaGone);
        Ok(media)
    }
}
