//! What commands do with the data of a server that is not running.

use std::{path::Path, sync::Arc};

use super::{
    error::Error,
    owner::FilesOfRoot,
    services::{Services, open_store},
};
use crate::{
    clock::Clock, config::Config, executor::Executor, http::Edge, pool::Pool, stop, store::Store,
};

/// Runs `action` on the store of a server that is not running.
pub fn with_store<T>(
    config: &Config,
    action: impl AsyncFnOnce(&Store) -> Result<T, Error>,
) -> Result<T, Error> {
    if !Store::exists(&config.data_dir) {
        return Err(Error::NoData(config.data_dir.clone()));
    }
    let executor = Executor::default();
    let _files = FilesOfRoot(&config.data_dir);
    smol::block_on(executor.run(async {
        let store = open_store(config, Pool::default()).await?;
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let result = action(&store).await;
        store.close().await;
        publishing.await;
        result
    }))
}

/// Gives what root has made in `directory` to its owner.
pub fn give_files_to_owner(directory: &Path) {
    drop(FilesOfRoot(directory));
}

/// Makes the database of a new server.
pub fn create_data(config: &Config) -> Result<(), Error> {
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let store = open_store(config, Pool::default()).await?;
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        store.close().await;
        publishing.await;
        Ok(())
    }))
}

/// Runs `action` on a server that is not running: with an edge that answers the owner in this process.
/// Meanwhile nothing is sent to other servers and push gateways; it stays queued.
pub fn offline<T>(config: Config, action: impl AsyncFnOnce(&Edge) -> T) -> Result<T, Error> {
    if !Store::exists(&config.data_dir) {
        return Err(Error::NoData(config.data_dir));
    }
    let executor = Executor::default();
    let data_dir = config.data_dir.clone();
    let _files = FilesOfRoot(&data_dir);
    smol::block_on(executor.run(async {
        let (stop, stopping) = stop::channel();
        let (clock, pool) = (Clock::default(), Pool::default());
        let mut services = Services::start(
            &executor,
            config,
            (None, Arc::default()),
            clock,
            pool,
            stopping,
        )
        .await?;
        services.resume_offline(&executor);
        let result = action(&Edge::admin(services.api.clone())).await;
        stop.now();
        services.stop().await;
        Ok(result)
    }))
}
