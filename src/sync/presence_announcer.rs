//! Announces changed presence, in a task of its own: no request waits for it, and it goes on if a client
//! hangs up.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedUserId, UInt, api::federation::transactions::edu::PresenceUpdate};
use smol::future::yield_now;

use super::notifier::Notifier;
use crate::{
    clock::Clock,
    federation::Federation,
    rooms::{
        Error, Local,
        servers::{self, shared_rooms},
    },
    store::{ServerNum, Snapshot, Store, UserNum},
    users::{self, presence::Presence},
};

/// Of users whose presence changed.
const USERS_PER_SCAN: usize = 100;

/// What the task works with.
pub struct PresenceAnnouncer {
    pub store: Store,
    pub local: Local,
    pub clock: Clock,
    pub notifier: Arc<Notifier>,
    pub presence: Arc<Presence>,
    pub federation: Arc<Federation>,
}

impl PresenceAnnouncer {
    /// Announces the presence of the users who wait for it, until none does.
    pub async fn run(self) {
        while let Some(users) = self.presence.take_unannounced() {
            let users: Vec<_> = users.into_iter().collect();
            for some in users.chunks(USERS_PER_SCAN) {
                if let Err(error) = self.announce(some.to_vec()).await {
                    log::debug!("some presence is announced only when it changes again: {error}");
                }
            }
        }
    }

    /// Wakes the local users who share a room with `users`, and sends the presence of local users to other
    /// servers.
    async fn announce(&self, users: Vec<UserNum>) -> Result<(), Error> {
        let local = self.local.clone();
        // Grows with the rooms of the users.
        let scan = move |s: &Snapshot| {
            let users = users.into_iter();
            users
                .map(|user| Audience::of(s, &local, user))
                .collect::<Result<Vec<_>, Error>>()
        };
        let found = self.store.scan_in_background("presence observers", scan);
        for audience in found.await? {
            self.notifier.wake(audience.observers);
            self.send(audience.user, audience.user_id, audience.servers)
                .await?;
            yield_now().await;
        }
        Ok(())
    }

    async fn send(
        &self,
        user: UserNum,
        user_id: OwnedUserId,
        servers: Vec<ServerNum>,
    ) -> Result<(), Error> {
        if let Some(presence) = self.presence.get(user)
            && !servers.is_empty()
        {
            let now_ms = self.clock.now_ms();
            let ago = UInt::new_saturating(now_ms.saturating_sub(presence.last_active_ts));
            let mut update = PresenceUpdate::new(user_id, presence.state.clone(), ago);
            update.currently_active = presence.currently_active(now_ms);
            update.status_msg = presence.status_msg;
            self.federation.send_presence(servers, update).await?;
        }
        Ok(())
    }
}

/// Who learns of the presence of a user.
struct Audience {
    user: UserNum,
    user_id: OwnedUserId,
    /// Local users.
    observers: BTreeSet<UserNum>,
    /// None for a user of another server.
    servers: Vec<ServerNum>,
}

impl Audience {
    fn of(s: &Snapshot, local: &Local, user: UserNum) -> Result<Self, Error> {
        let user_id = users::id_of(s, user)?;
        let (observers, servers) = if local.has(&user_id) {
            let observers = shared_rooms::local_users_sharing(s, user)?;
            (observers, servers::presence_recipients(s, user)?)
        } else {
            let observers = shared_rooms::local_users_sharing_with_remote(s, &user_id)?;
            (observers, Vec::new())
        };
        Ok(Self {
            user,
            user_id,
            observers,
            servers,
        })
    }
}
