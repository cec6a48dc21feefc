//! Cross-signing keys (client-server API, "Cross-signing").

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};

use super::signed_json::{
    is_same, parse, parse_stored, public_keys, str_field, to_text, verified_signature,
};
use crate::{
    store::{self, Reader, Rows, Tx, UserNum},
    users::{Error, device_lists},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// Identifies the user, and signs the other two.
    Master,
    /// Signs the user's devices.
    SelfSigning,
    /// Signs the master keys of other users.
    UserSigning,
}

impl Usage {
    const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// As in the `usage` field of keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// How the request that uploads keys is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthLevel {
    UserInteractive,
    AccessToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    Stored,
    /// Replacing keys needs user-interactive authentication.
    AuthenticationRequired,
}

const NO_MASTER: Error = Error::MissingParam("`master_key` is missing, and you have none yet");

/// Uploaded keys.
#[derive(Clone, Debug, Default)]
pub struct Upload(Vec<(Usage, CanonicalJsonObject)>);

impl Upload {
    /// # Errors
    /// [`Error::InvalidParam`] if it is not a key of `user_id` for `usage`; [`Error::BadJson`];
    /// [`Error::TooLarge`].
    pub fn add(&mut self, usage: Usage, json: &str, user_id: &UserId) -> Result<(), Error> {
        let key = parse(json)?;
        if str_field(&key, "user_id") != Some(user_id.as_str()) {
            return Err(Error::InvalidParam(
                "`user_id` of a cross-signing key is another user's",
            ));
        }
        let usages = key.get("usage").and_then(CanonicalJsonValue::as_array);
        let mut usages = usages.into_iter().flatten();
        if !usages.any(|other| other.as_str() == Some(usage.as_str())) {
            return Err(Error::InvalidParam(
                "`usage` of a cross-signing key lacks the usage for which it is uploaded",
            ));
        }
        let mut keys = public_keys(&key);
        match (keys.next(), keys.next()) {
            (Some(public), None)
                if public
                    .id
                    .split_once(':')
                    .is_some_and(|(_, name)| name == public.key) => {}
            _ => {
                return Err(Error::InvalidParam(
                    "`keys` of a cross-signing key is one public key, under its algorithm, a colon and itself",
                ));
            }
        }
        drop(keys);
        self.0.push((usage, key));
        Ok(())
    }

    fn get(&self, usage: Usage) -> Option<&CanonicalJsonObject> {
        let mut keys = self.0.iter();
        keys.find_map(|(other, key)| (*other == usage).then_some(key))
    }

    /// The first keys, and keys that are stored already, need no user-interactive authentication.
    fn needs_authentication(&self, r: &impl Reader, user: UserNum) -> Result<bool, store::Error> {
        if load(r, user, Usage::Master)?.is_none() {
            return Ok(false);
        }
        for (usage, key) in &self.0 {
            if !load(r, user, *usage)?.is_some_and(|before| is_same(&before, key)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stores the keys. Another master key than before removes the keys that the old one has signed.
    ///
    /// # Errors
    /// [`Error::MissingParam`] without a master key; [`Error::InvalidSignature`] if the master key has not
    /// signed the others; [`Error::KeyInUse`].
    pub fn store(
        &self,
        tx: &Tx,
        user: UserNum,
        user_id: &UserId,
        auth: AuthLevel,
    ) -> Result<StoreOutcome, Error> {
        if auth == AuthLevel::AccessToken && self.needs_authentication(tx, user)? {
            return Ok(StoreOutcome::AuthenticationRequired);
        }
        let before = load(tx, user, Usage::Master)?;
        let master = self.get(Usage::Master).or(before.as_ref());
        let master = master.ok_or(NO_MASTER)?;
        let signing_key = public_keys(master).next().ok_or(NO_MASTER)?;
        for (usage, key) in &self.0 {
            if *usage != Usage::Master && verified_signature(key, user_id, signing_key).is_none() {
                return Err(Error::InvalidSignature(
                    "the master key has not signed the other keys",
                ));
            }
            self.check_unused(tx, user, *usage, key)?;
        }
        let mut changed = false;
        if before
            .as_ref()
            .is_some_and(|before| !is_same(before, master))
        {
            remove_all(tx, user)?;
            changed = true;
        }
        for (usage, key) in &self.0 {
            // A key that is stored already keeps the signatures that were added to it since.
            if !load(tx, user, *usage)?.is_some_and(|before| is_same(&before, key)) {
                put(tx, user, *usage, key)?;
                changed = true;
            }
        }
        if changed {
            device_lists::cross_signing_keys_changed(tx, user)?;
        }
        Ok(StoreOutcome::Stored)
    }

    /// Checks that no device and no other cross-signing key of the user has the same public key as its id.
    fn check_unused(
        &self,
        r: &impl Reader,
        user: UserNum,
        usage: Usage,
        key: &CanonicalJsonObject,
    ) -> Result<(), Error> {
        let mut others = Vec::new();
        for other in Usage::ALL.into_iter().filter(|other| *other != usage) {
            match self.get(other) {
                Some(key) => others.push(key.clone()),
                None => others.extend(load(r, user, other)?),
            }
        }
        for public in public_keys(key) {
            let mut of_others = others.iter().flat_map(public_keys);
            if of_others.any(|other| other.key == public.key)
                || r.devices()?.has((user, public.key))?
            {
                return Err(Error::KeyInUse);
            }
        }
        Ok(())
    }
}

pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    for usage in Usage::ALL {
        tx.cross_signing_keys()?.remove((user, usage.as_str()))?;
    }
    Ok(())
}

/// Stores a key with the signatures that are on it.
pub(super) fn put(
    tx: &Tx,
    user: UserNum,
    usage: Usage,
    key: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    tx.cross_signing_keys()?
        .insert((user, usage.as_str()), to_text(key)?.as_str())
}

/// Whether a cross-signing key of `user` has the public key `public`.
pub(in crate::users) fn has_public_key(
    r: &impl Reader,
    user: UserNum,
    public: &str,
) -> Result<bool, store::Error> {
    for usage in Usage::ALL {
        if let Some(key) = load(r, user, usage)?
            && public_keys(&key).any(|other| other.key == public)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The key of a user, with the signatures that every user may see.
pub fn load(
    r: &impl Reader,
    user: UserNum,
    usage: Usage,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let table = r.cross_signing_keys()?;
    let key = (user, usage.as_str());
    let row = table.get(key)?;
    row.map(|row| parse_stored(row.value(), "cross_signing_keys", key))
        .transpose()
}
