//! Whether a session may go on that has authenticated before.

use crate::{
    store::{DeviceNum, Reader, Rows, UserNum},
    users::{Error, accounts},
};

/// The user of the session on `device`, for a request that has waited: the session may have ended meanwhile.
///
/// # Errors
/// [`Error::UnknownToken`] if it has ended, [`Error::Locked`] if the account is locked.
pub fn session_user(r: &impl Reader, device: DeviceNum) -> Result<UserNum, Error> {
    let owner = r.device_ids()?.get(device)?.map(|row| row.value().0);
    let user = owner.ok_or(Error::UnknownToken { soft_logout: false })?;
    if accounts::moderation(r, user)?.locked {
        return Err(Error::Locked);
    }
    Ok(user)
}
