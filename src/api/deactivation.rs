use super::{Api, Error};
use crate::{media, rooms::background::member_events, store::UserNum, users::accounts};

/// Deactivates an account; with `erase`, removes its uploads too. It leaves its rooms in the background.
pub(super) async fn deactivate_account(api: &Api, user: UserNum, erase: bool) -> Result<(), Error> {
    api.store
        .write_shrinking(move |tx| {
            accounts::deactivate(tx, user, erase)?;
            if erase {
                media::remove_uploads_of(tx, user)?;
            }
            member_events::schedule_update(tx, user)?;
            Ok::<_, Error>(())
        })
        .await
}
