//! Updates that other servers send.

use std::collections::BTreeSet;

use ruma::{
    OwnedUserId, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};

use super::tracker::DeviceLists;
use crate::{
    rooms::{self, servers::shared_rooms},
    store::Tx,
    users::{
        device_lists,
        remote_devices::{self, UpdateOutcome},
    },
};

/// How many updates are applied in one job.
const JOB_BATCH: usize = 20;

/// An EDU about the devices or keys of a user.
#[derive(Debug)]
pub enum Update {
    Device(DeviceListUpdateContent),
    SigningKeys(SigningKeyUpdateContent),
}

impl Update {
    pub fn user(&self) -> &UserId {
        match self {
            Self::Device(update) => &update.user_id,
            Self::SigningKeys(update) => &update.user_id,
        }
    }

    fn is_valid(&self) -> bool {
        match self {
            Self::Device(update) => remote_devices::is_valid_update(update),
            Self::SigningKeys(update) => remote_devices::is_valid_signing_key_update(update),
        }
    }
}

impl DeviceLists {
    /// Applies the updates of a server in their order. Lists that lack an earlier update are fetched.
    pub async fn apply_updates(&self, updates: Vec<Update>) -> Result<(), rooms::Error> {
        if updates.is_empty() {
            return Ok(());
        }
        // Grows with the rooms that the servers share.
        let scan = self.0.store.scan_in_background("device-list updates", |s| {
            let mut relevant = Vec::new();
            for update in updates {
                if update.is_valid() && shared_rooms::any_local_user_shares(s, update.user())? {
                    relevant.push(update);
                }
            }
            Ok::<_, rooms::Error>(relevant)
        });
        let mut relevant = scan.await?.into_iter().peekable();
        while relevant.peek().is_some() {
            let batch: Vec<_> = relevant.by_ref().take(JOB_BATCH).collect();
            let job = move |tx: &Tx| apply(tx, &batch);
            for user in self.0.store.write(job).await? {
                self.0.retries.put(&user);
                self.set_outdated(&user);
                self.fetch_in_background(&user);
            }
        }
        Ok(())
    }
}

/// Applies `updates`. Returns the users whose lists are stale then.
fn apply(tx: &Tx, updates: &[Update]) -> Result<BTreeSet<OwnedUserId>, rooms::Error> {
    let mut stale = BTreeSet::new();
    for update in updates {
        let outcome = match update {
            Update::Device(update) => remote_devices::apply_update(tx, update),
            Update::SigningKeys(update) => remote_devices::apply_signing_key_update(tx, update),
        };
        let outcome = match outcome {
            // It must not stop the other updates.
            Err(error) if error.is_caused_by_data() => {
                log::error!(
                    "a device-list update of {} is dropped: {error}",
                    update.user()
                );
                continue;
            }
            outcome => outcome?,
        };
        if outcome != UpdateOutcome::Duplicate {
            let user = tx.user_num(update.user().as_str())?;
            device_lists::remote_changed(tx, user)?;
        }
        if outcome == UpdateOutcome::Stale {
            stale.insert(update.user().to_owned());
        }
    }
    Ok(stale)
}
