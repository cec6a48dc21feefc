//! Short-lived tokens with which a logged-in client lets in another one (client-server API,
//! `POST /login/get_token`).

use std::time::Duration;

use super::{
    AuthenticatedUser,
    tokens::{self, Kind, Token, TokenHash},
};
use crate::{
    store::{self, Reader, Records, Tx, UserNum, records::LoginToken},
    users::{Error, Users, id_of},
};

/// How long a login token lives, as the specification recommends.
const LIFETIME: Duration = Duration::from_mins(2);

const EVERY_HASH: std::ops::RangeInclusive<TokenHash> = [0; 32]..=[255; 32];

/// Uses up the token `hash`.
pub(in crate::users) fn redeem(tx: &Tx, hash: &TokenHash, now_ms: u64) -> Result<(), Error> {
    let token = tx.login_tokens()?.load(hash)?;
    match token {
        Some(token) if token.expires_ts > now_ms => {
            tx.login_tokens()?.remove(hash)?;
            Ok(())
        }
        _ => Err(Error::InvalidLoginToken),
    }
}

/// Ends the login tokens of `user`.
pub(in crate::users) fn remove_of(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    // The table holds two minutes' worth of tokens, so looking through it is nothing.
    tx.login_tokens()?.remove_in(EVERY_HASH, |_, token| {
        token.unpack().is_ok_and(|token| token.user == user)
    })
}

impl Users {
    /// A token that lets a new client log in as `user`, once, and how long it lives.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn login_token(&self, user: UserNum) -> Result<(Token, Duration), Error> {
        let token = Token::generate(Kind::Login);
        let now_ms = self.clock.now_ms();
        let (hash, record) = (
            token.hash(),
            LoginToken {
                user,
                expires_ts: now_ms + LIFETIME.as_millis() as u64,
            },
        );
        let stored = self.store.write(move |tx| {
            let mut tokens = tx.login_tokens()?;
            tokens.remove_in(EVERY_HASH, |_, token| {
                token.unpack().is_ok_and(|token| token.expires_ts <= now_ms)
            })?;
            Ok::<_, Error>(tokens.put(hash, &record)?)
        });
        stored.await?;
        Ok((token, LIFETIME))
    }

    /// AuthenticatedUser by a login token; the login itself uses it up.
    ///
    /// # Errors
    /// [`Error::InvalidLoginToken`].
    pub fn authenticate_by_login_token(&self, token: &str) -> Result<AuthenticatedUser, Error> {
        let hash = tokens::hash(token);
        self.store.read(|s| {
            let token = s.login_tokens()?.load(hash)?;
            let token = token.ok_or(Error::InvalidLoginToken)?;
            let user_id = id_of(s, token.user)?;
            Ok(AuthenticatedUser::by_login_token(token.user, user_id, hash))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::Rows,
        users::{
            Login, NewLogin,
            testing::{Server, with_server},
        },
    };

    async fn log_in(server: &Server, token: &Token) -> Result<Login, Error> {
        let proof = server
            .users
            .authenticate_by_login_token(&token.clone().into_string())?;
        server.users.log_in(proof, NewLogin::default()).await
    }

    #[test]
    fn a_login_token_lets_in_once() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let (token, _) = server.users.login_token(user).await.unwrap();
            let (one, two) =
                smol::future::zip(log_in(&server, &token), log_in(&server, &token)).await;
            assert!(one.is_ok() != two.is_ok());
            let new = one.or(two).unwrap();
            assert_eq!(new.user_id, login.user_id);
            assert_ne!(new.device_id, login.device_id);
            assert!(matches!(
                log_in(&server, &token).await,
                Err(Error::InvalidLoginToken)
            ));
        });
    }

    #[test]
    fn a_login_token_ends_after_its_time_and_goes_with_the_next() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let (token, lifetime) = server.users.login_token(user).await.unwrap();
            server.clock.advance(lifetime);
            assert!(matches!(
                log_in(&server, &token).await,
                Err(Error::InvalidLoginToken)
            ));
            server.users.login_token(user).await.unwrap();
            assert_eq!(server.store.read(|s| s.login_tokens()?.len()).unwrap(), 1);
        });
    }
}
