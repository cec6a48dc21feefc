//! The keys with which a user signs keys: the master key, which stands for the user; the self-signing
//! key, which signs the user's devices; the user-signing key, which signs other users' master keys.
//!
//! Source: client-server API, "Cross-signing".

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};

use super::{Error, is_same, is_signed, parse, public_keys, stored, text, text_of};
use crate::{
    store::{self, Reader, Rows, Tx, UserNum},
    users::device_lists,
};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// It stands for the user.
    Master,
    /// It signs the user's devices.
    SelfSigning,
    /// It signs other users.
    UserSigning,
}

impl Usage {
    /// All of them, the master key first.
    pub const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// As keys have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// Whether a user has just proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthLevel {
    /// By a password, say.
    UserInteractive,
    /// Only by the session.
    AccessToken,
}

/// What became of keys that were handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// They are kept.
    Stored,
    /// Others are there, and the user has to prove who it is to replace them.
    AuthenticationRequired,
}

const NO_MASTER: Error = Error::MissingParam("there is no master key");

/// Keys that a client hands in, by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Upload(Vec<(Usage, CanonicalJsonObject)>);

impl Upload {
    /// Adds a key.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if it is not one for this; [`Error::BadJson`]; [`Error::TooLarge`].
    pub fn add(&mut self, usage: Usage, json: &str, user_id: &UserId) -> Result<(), Error> {
        let key = parse(json)?;
        if text_of(&key, "user_id") != Some(user_id.as_str()) {
            return Err(Error::InvalidParam("this is the key of another user"));
        }
        let usages = key.get("usage").and_then(CanonicalJsonValue::as_array);
        let mut usages = usages.into_iter().flatten();
        if !usages.any(|other| other.as_str() == Some(usage.as_str())) {
            return Err(Error::InvalidParam(
                "the key says that it is for something else",
            ));
        }
        let mut keys = public_keys(&key);
        match (keys.next(), keys.next()) {
            (Some((id, public)), None)
                if id.split_once(':').is_some_and(|(_, of)| of == public) => {}
            _ => {
                return Err(Error::InvalidParam(
                    "such a key is one public key, under an id made of it",
                ));
            }
        }
        drop(keys);
        self.0.push((usage, key));
        Ok(())
    }

    /// Whether the user has to prove who it is: not for the first keys, and not for those that are
    /// there.
    fn needs_proof(&self, r: &impl Reader, user: UserNum) -> Result<bool, store::Error> {
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

    /// Keeps the keys. What a master key before has signed ends with it.
    ///
    /// # Errors
    /// [`Error::MissingParam`] without a master key; [`Error::InvalidSignature`] if that has not
    /// signed the others; [`Error::KeyInUse`].
    pub fn store(
        &self,
        tx: &Tx,
        (user, user_id): (UserNum, &UserId),
        auth: AuthLevel,
    ) -> Result<StoreOutcome, Error> {
        if auth == AuthLevel::AccessToken && self.needs_proof(tx, user)? {
            return Ok(StoreOutcome::AuthenticationRequired);
        }
        let before = load(tx, user, Usage::Master)?;
        let given = self.0.iter().find(|(usage, _)| *usage == Usage::Master);
        let master = given.map(|(_, key)| key).or(before.as_ref());
        let master = master.ok_or(NO_MASTER)?;
        let signs = public_keys(master).next().ok_or(NO_MASTER)?;
        for (usage, key) in &self.0 {
            if *usage != Usage::Master && !is_signed(key, user_id, signs) {
                return Err(Error::InvalidSignature(
                    "the master key has not signed the other keys",
                ));
            }
            self.check_unused(tx, user, (*usage, key))?;
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
            // The signatures that others have added since stay with it.
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

    /// Whether nothing else of the user's is known by the same public key.
    fn check_unused(
        &self,
        r: &impl Reader,
        user: UserNum,
        (usage, key): (Usage, &CanonicalJsonObject),
    ) -> Result<(), Error> {
        let mut others = Vec::new();
        for other in Usage::ALL.into_iter().filter(|other| *other != usage) {
            let given = self.0.iter().find(|(usage, _)| *usage == other);
            match given {
                Some((_, key)) => others.push(key.clone()),
                None => others.extend(load(r, user, other)?),
            }
        }
        for (_, public) in public_keys(key) {
            let of_other = others.iter().flat_map(public_keys);
            let is_used = of_other.into_iter().any(|(_, other)| other == public);
            if is_used || r.devices()?.has((user, public))? {
                return Err(Error::KeyInUse);
            }
        }
        Ok(())
    }
}

/// Removes the keys of `user`.
///
/// # Errors
/// If the table cannot be written.
pub fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    for usage in Usage::ALL {
        tx.cross_signing_keys()?.remove((user, usage.as_str()))?;
    }
    Ok(())
}

/// Keeps a key, with whatever signatures are on it.
pub(super) fn put(
    tx: &Tx,
    user: UserNum,
    usage: Usage,
    key: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    tx.cross_signing_keys()?
        .insert((user, usage.as_str()), text(key)?.as_str())?;
    Ok(())
}

/// Whether one of the keys of `user` is `public`.
///
/// # Errors
/// If the tables cannot be read.
pub fn has_public_key(r: &impl Reader, user: UserNum, public: &str) -> Result<bool, store::Error> {
    for usage in Usage::ALL {
        if let Some(key) = load(r, user, usage)?
            && public_keys(&key).any(|(_, other)| other == public)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The key of a user, with the signatures that everybody may see who may see the key.
///
/// # Errors
/// If the tables cannot be read.
pub fn load(
    r: &impl Reader,
    user: UserNum,
    usage: Usage,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let table = r.cross_signing_keys()?;
    let key = (user, usage.as_str());
    let row = table.get(key)?;
    row.map(|row| stored(row.value(), "cross_signing_keys", key))
        .transpose()
}
