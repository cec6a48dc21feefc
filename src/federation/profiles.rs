//! Profiles of other servers' users: what their servers tell, remembered for a while.
//!
//! Source: server-server API, "Querying for information", `GET /query/profile`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedUserId, UserId, api::federation::query::get_profile_information, profile::UserProfile,
};

use super::{Client, Error, Limits};
use crate::clock::Clock;

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
    clock: Clock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    profiles: HashMap<OwnedUserId, Told>,
    bytes: usize,
}

struct Told {
    profile: Result<UserProfile, Error>,
    bytes: usize,
    /// In milliseconds since the epoch.
    until: u64,
}

impl Profiles {
    /// Those that `client` can ask for.
    pub fn new(client: &Client, clock: &Clock) -> Self {
        Self {
            client: client.clone(),
            clock: clock.clone(),
            known: Mutex::default(),
        }
    }

    /// The profile of a user, as the user's server tells it.
    pub async fn of(&self, user: &UserId) -> Result<UserProfile, Error> {
        if let Some(told) = self.known(user) {
            return told;
        }
        let request = get_profile_information::v1::Request::new(user.to_owned());
        let told = self
            .client
            .send_within(user.server_name(), request, LIMITS)
            .await;
        let profile = told.map(|told| told.data);
        self.remember(user, profile.clone());
        profile
    }

    fn known(&self, user: &UserId) -> Option<Result<UserProfile, Error>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let told = known.profiles.get(user)?;
        (self.clock.now_ms() < told.until).then(|| told.profile.clone())
    }

    fn remember(&self, user: &UserId, profile: Result<UserProfile, Error>) {
        let now = self.clock.now_ms();
        let (bytes, holds) = match &profile {
            Ok(profile) => (size(profile), HOLDS),
            Err(error) => (error.to_string().len(), NONE_HOLDS),
        };
        let holds = u64::try_from(holds.as_millis()).unwrap_or(u64::MAX);
        let told = Told {
            profile,
            bytes: bytes + user.as_str().len(),
            until: now.saturating_add(holds),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(user.to_owned(), told, now);
    }
}

impl Known {
    fn insert(&mut self, user: OwnedUserId, told: Told, now: u64) {
        self.remove(&user);
        if !self.has_room_for(&told) {
            self.profiles.retain(|_, told| now < told.until);
            self.bytes = self.profiles.values().map(|told| told.bytes).sum();
        }
        if !self.has_room_for(&told) {
            *self = Self::default();
        }
        self.bytes += told.bytes;
        self.profiles.insert(user, told);
    }

    fn remove(&mut self, user: &UserId) {
        if let Some(told) = self.profiles.remove(user) {
            self.bytes -= told.bytes;
        }
    }

    fn has_room_for(&self, told: &Told) -> bool {
        self.profiles.len() < REMEMBERED && self.bytes + told.bytes <= BYTES
    }
}

/// How much of a profile there is, in bytes.
fn size(profile: &UserProfile) -> usize {
    let fields = profile.iter();
    let sizes = fields.map(|(name, value)| name.len() + value.to_string().len());
    sizes.sum()
}
