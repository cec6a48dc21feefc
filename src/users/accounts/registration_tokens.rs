//! Registration tokens that the owner makes: each lets some people register for some time (client-server API,
//! "Token-authenticated registration"). The settings may have one more, without limits.

use ruma::OwnedRoomId;

use super::administration::generate_password;
use crate::{
    config::Registration,
    store::{Reader, Records, Rows, Tx, UserNum, records::RegistrationToken},
    users::{Error, Users, auth::tokens},
};

/// One more is refused, after those that can no longer be used are removed.
const MAX_TOKENS: usize = 1000;
/// Of the owner's words.
const MAX_NAME_BYTES: usize = 255;

/// What the owner wants of a new token.
#[derive(Clone, Debug)]
pub struct NewRegistrationToken {
    pub name: Option<String>,
    /// In milliseconds since the epoch.
    pub expires_ts: Option<u64>,
    pub max_uses: Option<u32>,
    pub rooms: Vec<OwnedRoomId>,
    pub inviter: Option<UserNum>,
}

/// Whether an account can be made with a token, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    Usable,
    UsedUp,
    Expired,
}

impl RegistrationToken {
    pub fn state(&self, now_ms: u64) -> TokenState {
        if self.max_uses.is_some_and(|max| self.uses >= max) {
            TokenState::UsedUp
        } else if self.expires_ts.is_some_and(|expiry| now_ms >= expiry) {
            TokenState::Expired
        } else {
            TokenState::Usable
        }
    }

    fn is_usable(&self, now_ms: u64) -> bool {
        self.state(now_ms) == TokenState::Usable
    }
}

/// The key of a token, which is made of lowercase letters: many a phone begins a text with a capital.
fn key(token: &str) -> String {
    token.to_ascii_lowercase()
}

/// All tokens, usable or not.
pub fn registration_tokens(r: &impl Reader) -> Result<Vec<(String, RegistrationToken)>, Error> {
    let mut tokens = Vec::new();
    for row in r.registration_tokens()?.all()? {
        let (key, row) = row?;
        tokens.push((key.value().to_owned(), row.record(&key)?));
    }
    Ok(tokens)
}

/// Counts a use of `token`, which is not that of the settings.
///
/// # Errors
/// [`Error::InvalidRegistrationToken`].
pub(super) fn redeem(tx: &Tx, token: &str, now_ms: u64) -> Result<RegistrationToken, Error> {
    let token = &*key(token);
    let stored = tx.registration_tokens()?.load(token)?;
    let mut stored = stored
        .filter(|stored| stored.is_usable(now_ms))
        .ok_or(Error::InvalidRegistrationToken)?;
    stored.uses += 1;
    tx.registration_tokens()?.put(token, &stored)?;
    Ok(stored)
}

impl Users {
    /// Whether somebody can register with `token`.
    pub fn is_registration_token(&self, token: &str) -> Result<bool, Error> {
        if self.is_token_of_settings(token) {
            return Ok(true);
        }
        let stored = self
            .store
            .read(|s| s.registration_tokens()?.load(&*key(token)))?;
        Ok(stored.is_some_and(|stored| stored.is_usable(self.clock.now_ms())))
    }

    pub(super) fn is_token_of_settings(&self, token: &str) -> bool {
        match &self.options.registration {
            // Hashes are compared, so that the time taken reveals nothing.
            Registration::Token(right) => tokens::hash(right.expose()) == tokens::hash(token),
            Registration::Closed | Registration::Open => false,
        }
    }

    /// Whether anybody can register with a token of the owner.
    pub fn has_registration_tokens(&self) -> Result<bool, Error> {
        let now_ms = self.clock.now_ms();
        let tokens = self.store.read(registration_tokens)?;
        Ok(tokens.iter().any(|(_, token)| token.is_usable(now_ms)))
    }

    /// # Errors
    /// [`Error::InvalidParam`] if the name is too long, [`Error::TooMany`].
    pub async fn create_registration_token(
        &self,
        new: NewRegistrationToken,
    ) -> Result<String, Error> {
        if new
            .name
            .as_ref()
            .is_some_and(|name| name.len() > MAX_NAME_BYTES)
        {
            return Err(Error::InvalidParam(
                "the name of an invitation has at most 255 bytes",
            ));
        }
        let (token, now_ms) = (generate_password(), self.clock.now_ms());
        let row = RegistrationToken {
            name: new.name,
            created_ts: now_ms,
            expires_ts: new.expires_ts,
            uses: 0,
            max_uses: new.max_uses,
            rooms: new.rooms.into_iter().map(String::from).collect(),
            inviter: new.inviter,
        };
        let key = token.clone();
        let job = move |tx: &Tx| {
            if tx.registration_tokens()?.len()? >= MAX_TOKENS as u64 {
                let unusable = registration_tokens(tx)?.into_iter();
                for (token, _) in unusable.filter(|(_, token)| !token.is_usable(now_ms)) {
                    tx.registration_tokens()?.remove(&*token)?;
                }
            }
            if tx.registration_tokens()?.len()? >= MAX_TOKENS as u64 {
                return Err(Error::TooMany(
                    "there are 1,000 invitations that can be used; revoke some first",
                ));
            }
            Ok(tx.registration_tokens()?.put(&*key, &row)?)
        };
        self.store.write(job).await?;
        Ok(token)
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_registration_token(&self, token: &str) -> Result<(), Error> {
        let token = key(token);
        let job = move |tx: &Tx| {
            if tx.registration_tokens()?.remove(&*token)? {
                Ok(())
            } else {
                Err(Error::NotFound(
                    "there is no such invitation; `hearth invite list` shows all",
                ))
            }
        };
        self.store.write(job).await
    }
}

#[cfg(test)]
mod tests {
    use super::{RegistrationToken, TokenState};

    #[test]
    fn a_token_ends_with_its_time_or_its_last_use() {
        let token = |uses| RegistrationToken {
            name: None,
            created_ts: 0,
            expires_ts: Some(1000),
            uses,
            max_uses: Some(2),
            rooms: Vec::new(),
            inviter: None,
        };
        assert_eq!(token(1).state(999), TokenState::Usable);
        assert_eq!(token(1).state(1000), TokenState::Expired);
        assert_eq!(token(2).state(999), TokenState::UsedUp);
    }
}
