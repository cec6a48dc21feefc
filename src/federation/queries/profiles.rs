//! Profiles of other servers' users: what their servers tell, remembered for a while.
//!
//! Source: server-server API, "Querying for information", `GET /query/profile`.

use std::time::Duration;

use ruma::{
    OwnedUserId, UserId, api::federation::query::get_profile_information, profile::UserProfile,
};

use crate::{
    clock::Clock,
    federation::{Client, Error, Limits, remembered::Remembered},
};

/// How long a profile counts that was told.
const HOLDS: Duration = Duration::from_mins(5);
/// How long it counts that none was.
const NONE_HOLDS: Duration = Duration::from_mins(1);
/// How many are remembered, and how many bytes of them.
const REMEMBERED: usize = 1000;
const BYTES: usize = 1024 * 1024;
/// A profile has 64 KiB at most; it may be written with some space.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 128 * 1024,
};

/// The profiles of other servers' users.
pub struct Profiles {
    client: Client,
    known: Remembered<OwnedUserId, Result<UserProfile, Error>>,
}

impl Profiles {
    /// Those that `client` can ask for.
    pub fn new(client: &Client, clock: &Clock) -> Self {
        Self {
            client: client.clone(),
            known: Remembered::new(clock, REMEMBERED, BYTES),
        }
    }

    /// What the user's server told lately.
    pub fn known(&self, user: &UserId) -> Option<Result<UserProfile, Error>> {
        self.known.get(user)
    }

    /// The profile of a user, as the user's server tells it now.
    pub async fn ask(&self, user: &UserId) -> Result<UserProfile, Error> {
        let request = get_profile_information::v1::Request::new(user.to_owned());
        let told = self.client.send_within(user.server_name(), request, LIMITS);
        let profile = told.await.map(|told| told.data);
        let (bytes, holds) = match &profile {
            Ok(profile) => (size(profile), HOLDS),
            Err(error) => (error.to_string().len(), NONE_HOLDS),
        };
        let bytes = bytes + user.as_str().len();
        self.known
            .put(user.to_owned(), profile.clone(), bytes, holds);
        profile
    }
}

/// How much of a profile there is, in bytes.
fn size(profile: &UserProfile) -> usize {
    let fields = profile.iter();
    let sizes = fields.map(|(name, value)| name.len() + value.to_string().len());
    sizes.sum()
}
