//! The service that handlers call; each subject adds its methods to it.

use std::{fmt, net::IpAddr};

use ruma::{OwnedServerName, OwnedUserId};

use super::{PasswordClient, UiaSessions};
use crate::{
    cache::Cache,
    clock::Clock,
    config::{Registration, Secret},
    fair_semaphore::{FairPermit, FairSemaphore},
    pool::Pool,
    store::{DeviceNum, Store},
};

/// How many clients at once have passwords on the pool, and how many one of them.
const MAX_PASSWORDS: usize = 8;
const MAX_PASSWORDS_PER_CLIENT: usize = 2;
const MAX_NONCES: usize = 256;
/// A device that is evicted has its `last_seen_ts` written early.
const MAX_RECENTLY_SEEN: usize = 4096;

/// The settings for accounts.
#[derive(Clone, Debug)]
pub struct Options {
    pub server_name: OwnedServerName,
    pub registration: Registration,
    /// The sender of server notices, as whom nobody can register.
    pub notices_user: OwnedUserId,
    /// Lets tools register accounts; `None` forbids it.
    pub registration_shared_secret: Option<Secret>,
}

/// The accounts of this server.
pub struct Users {
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) pool: Pool,
    pub(super) clock: Clock,
    /// Devices whose `last_seen_ts` needs no write yet.
    pub(super) recently_seen: Cache<DeviceNum, ()>,
    /// Nonces for the registration with the shared secret.
    pub(super) nonces: Cache<String, IpAddr>,
    pub uia: UiaSessions,
    pub(super) password_turns: FairSemaphore<PasswordClient>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Users {
    pub fn new(options: Options, store: Store, pool: Pool, clock: Clock) -> Self {
        Self {
            options,
            store,
            pool,
            uia: UiaSessions::new(&clock),
            password_turns: FairSemaphore::new(MAX_PASSWORDS, MAX_PASSWORDS_PER_CLIENT),
            nonces: Cache::new(&clock, MAX_NONCES),
            recently_seen: Cache::new(&clock, MAX_RECENTLY_SEEN),
            clock,
        }
    }

    /// A client whose password is checked or hashed waits for this first, and holds it meanwhile: so nobody
    /// waits for long because somebody else tries many.
    pub async fn password_turn(&self, client: PasswordClient) -> FairPermit<PasswordClient> {
        self.password_turns.acquire(client.of_site()).await
    }

    pub fn registration(&self) -> &Registration {
        &self.options.registration
    }
}
