//! Profiles of users of other servers, with a cache.
//!
//! Source: server-server API, "Querying for information", `GET /query/profile`.

use std::time::Duration;

use ruma::{
    OwnedUserId, UserId, api::federation::query::get_profile_information, profile::UserProfile,
};

use crate::{
    cache::Cache,
    clock::Clock,
    federation::{Client, Error, Limits},
};

const TTL: Duration = Duration::from_mins(5);
const FAILURE_TTL: Duration = Duration::from_mins(1);
const MAX_CACHED: usize = 1000;
const MAX_CACHED_BYTES: usize = 1024 * 1024;
/// A profile has at most 64 KiB of canonical JSON; a response may have whitespace.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_bytes: 128 * 1024,
};

pub struct Profiles {
    client: Client,
    cached: Cache<OwnedUserId, Result<UserProfile, Error>>,
}

impl Profiles {
    pub fn new(client: &Client, clock: &Clock) -> Self {
        Self {
            client: client.clone(),
            cached: Cache::with_max_bytes(clock, MAX_CACHED, MAX_CACHED_BYTES),
        }
    }

    pub fn cached(&self, user: &UserId) -> Option<Result<UserProfile, Error>> {
        self.cached.get(user)
    }

    /// Requests the profile of `user` and caches it.
    pub async fn fetch(&self, user: &UserId) -> Result<UserProfile, Error> {
        let request = get_profile_information::v1::Request::new(user.to_owned());
        let server = user.server_name();
        let response = self.client.send_with_limits(server, request, LIMITS);
        let profile = response.await.map(|response| response.data);
        let (bytes, ttl) = match &profile {
            Ok(profile) => (size(profile), TTL),
            Err(error) => (error.to_string().len(), FAILURE_TTL),
        };
        let bytes = bytes + user.as_str().len();
        self.cached
            .insert_sized(user.to_owned(), profile.clone(), bytes, ttl);
        profile
    }
}

/// In bytes.
fn size(profile: &UserProfile) -> usize {
    let fields = profile.iter();
    let sizes = fields.map(|(name, value)| name.len() + value.to_string().len());
    sizes.sum()
}
