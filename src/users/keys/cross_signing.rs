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

    /// Whether the user has to authenticate for this: not for the first keys, and not for those that
    /// are there.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn needs_authentication(
        &self,
        r: &impl Reader,
        user: UserNum,
    ) -> Result<bool, store::Error> {
        if of_user(r, user, Usage::Master)?.is_none() {
            return Ok(false);
        }
        for (usage, key) in &self.0 {
            if !of_user(r, user, *usage)?.is_some_and(|before| is_same(&before, key)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps the keys.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] without a master key; [`Error::InvalidSignature`] if that has not
    /// signed the others.
    pub fn keep(&self, tx: &Tx, (user, user_id): (UserNum, &UserId)) -> Result<(), Error> {
        let given = self.0.iter().find(|(usage, _)| *usage == Usage::Master);
        let master = match given {
            Some((_, key)) => key.clone(),
            None => of_user(tx, user, Usage::Master)?
                .ok_or(Error::InvalidParam("there is no master key"))?,
        };
        let master = public_keys(&master).next();
        let master = master.ok_or(Error::InvalidParam("there is no master key"))?;
        for (usage, key) in &self.0 {
            if *usage != Usage::Master && !is_signed(key, user_id, master) {
                return Err(Error::InvalidSignature(
                    "the master key has not signed the other keys",
                ));
            }
        }
        let mut changed = false;
        for (usage, key) in &self.0 {
            // The signatures that others have added since stay with it.
            if !of_user(tx, user, *usage)?.is_some_and(|before| is_same(&before, key)) {
                put(tx, user, *usage, key)?;
                changed = true;
            }
        }
        if changed {
            device_lists::changed(tx, user)?;
        }
        Ok(())
    }
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

/// The key of a user, with the signatures that everybody may see who may see the key.
///
/// # Errors
/// If the tables cannot be read.
pub fn of_user(
    r: &impl Reader,
    user: UserNum,
    usage: Usage,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let table = r.cross_signing_keys()?;
    let row = table.get((user, usage.as_str()))?;
    row.map(|row| stored(row.value())).transpose()
}
