//! What all parts share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use ruma::OwnedUserId;
use smol::lock::Semaphore;

use super::pending_retries::PendingRetries;
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{Client, Error, outbound::backoff::Backoffs},
    single_flight::SingleFlight,
    store::Store,
};

/// How many lists are fetched at once.
const MAX_FETCHES: usize = 500;
/// How many lists are refreshed in the background at once. Others stay stale until they are used, or until
/// their server sends a request.
const MAX_BACKGROUND_FETCHES: usize = 20;

/// The device lists of users of other servers. Clones are the same.
#[derive(Clone)]
pub struct DeviceLists(pub(super) Arc<DeviceListsInner>);

pub(super) struct DeviceListsInner {
    pub store: Store,
    pub client: Client,
    pub clock: Clock,
    pub executor: Executor,
    pub backoffs: Backoffs,
    pub fetches: SingleFlight<OwnedUserId, Result<(), Error>>,
    /// The users whose lists were updated while they are fetched.
    pub outdated: Mutex<HashSet<OwnedUserId>>,
    pub retries: PendingRetries,
    pub background_permits: Arc<Semaphore>,
}

impl DeviceLists {
    pub fn new(
        store: &Store,
        client: &Client,
        clock: &Clock,
        backoffs: &Backoffs,
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(DeviceListsInner {
            store: store.clone(),
            client: client.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            backoffs: backoffs.clone(),
            fetches: SingleFlight::new(MAX_FETCHES),
            outdated: Mutex::default(),
            retries: PendingRetries::default(),
            background_permits: Arc::new(Semaphore::new(MAX_BACKGROUND_FETCHES)),
        }))
    }
}
