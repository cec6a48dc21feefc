//! Tokens by which a user proves their identity to another service (client-server API, "OpenID").

use std::time::Duration;

use ruma::OwnedUserId;

use super::{
    session_user::session_user,
    tokens::{self, Kind, Token, TokenHash},
};
use crate::{
    store::{self, DeviceNum, Reader, Rows, Tx},
    users::{Error, Users, id_of},
};

const LIFETIME: Duration = Duration::from_hours(1);
const UNKNOWN: Error = Error::UnknownToken { soft_logout: false };
/// One more removes the oldest.
const MAX_TOKENS_PER_DEVICE: usize = 20;

/// Removes the tokens of the session on `device`, which has ended.
pub(in crate::users) fn remove_of(tx: &Tx, device: DeviceNum) -> Result<(), store::Error> {
    let mut tokens = tx.openid_tokens()?;
    if tokens.len()? == 0 {
        return Ok(());
    }
    tokens.remove_in::<TokenHash>(.., |_, (of_device, _)| of_device == device)
}

/// Removes expired tokens, and the oldest of `device` so that one more can be stored. Reads the whole table,
/// which has the tokens of one hour.
fn evict(tx: &Tx, device: DeviceNum, now_ms: u64) -> Result<(), store::Error> {
    let mut tokens = tx.openid_tokens()?;
    tokens.remove_in::<TokenHash>(.., |_, (_, expires_ts)| expires_ts <= now_ms)?;
    let mut own = Vec::new();
    for row in tokens.all()? {
        let (hash, token) = row?;
        let (of_device, expires_ts) = token.value();
        if of_device == device {
            own.push((expires_ts, hash.value()));
        }
    }
    own.sort_unstable();
    let surplus = own.len().saturating_sub(MAX_TOKENS_PER_DEVICE - 1);
    for (_, hash) in &own[..surplus] {
        tokens.remove(hash)?;
    }
    Ok(())
}

impl Users {
    /// A token by which other services can request the id of the user of `device`, and its lifetime. It ends with
    /// the session.
    pub async fn openid_token(&self, device: DeviceNum) -> Result<(Token, Duration), Error> {
        let token = Token::generate(Kind::OpenId);
        let now_ms = self.clock.now_ms();
        let hash = token.hash();
        let stored = self.store.write(move |tx| {
            session_user(tx, device)?;
            evict(tx, device, now_ms)?;
            let expires_ts = now_ms + LIFETIME.as_millis() as u64;
            Ok::<_, Error>(tx.openid_tokens()?.insert(hash, (device, expires_ts))?)
        });
        stored.await?;
        Ok((token, LIFETIME))
    }

    /// Whose OpenID token that is. That of a locked user is not known.
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub fn openid_user(&self, token: &str) -> Result<OwnedUserId, Error> {
        let hash = tokens::hash(token);
        self.store.read(|s| {
            let token = s.openid_tokens()?.get(hash)?.map(|row| row.value());
            let (device, expires_ts) = token.ok_or(UNKNOWN)?;
            if expires_ts <= self.clock.now_ms() {
                return Err(UNKNOWN);
            }
            match session_user(s, device) {
                Err(Error::Locked) => Err(UNKNOWN),
                user => Ok(id_of(s, user?)?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, MAX_TOKENS_PER_DEVICE, Token};
    use crate::{
        store::{Reader, Rows},
        users::testing::{Server, with_server},
    };

    fn is_known(server: &Server, token: &Token) -> bool {
        let user = server.users.openid_user(&token.clone().into_string());
        assert!(matches!(user, Ok(_) | Err(Error::UnknownToken { .. })));
        user.is_ok_and(|user| user == "@alice:example.org")
    }

    #[test]
    fn a_token_identifies_its_user_until_it_expires() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let device = server.session(&login).await.device;
            let (token, lifetime) = server.users.openid_token(device).await.unwrap();
            assert!(is_known(&server, &token));
            server.clock.advance(lifetime);
            assert!(!is_known(&server, &token));
            server.users.openid_token(device).await.unwrap();
            assert_eq!(server.store.read(|s| s.openid_tokens()?.len()).unwrap(), 1);
        });
    }

    #[test]
    fn one_token_too_many_removes_the_oldest() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let device = server.session(&login).await.device;
            let mut tokens = Vec::new();
            for _ in 0..=MAX_TOKENS_PER_DEVICE {
                tokens.push(server.users.openid_token(device).await.unwrap().0);
                server.clock.advance(std::time::Duration::from_millis(1));
            }
            assert!(!is_known(&server, &tokens[0]));
            assert!(tokens[1..].iter().all(|token| is_known(&server, token)));
        });
    }
}
