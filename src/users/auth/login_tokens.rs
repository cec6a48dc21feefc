//! Short-lived tokens with which a logged-in client logs in another one (client-server API,
//! `POST /login/get_token`).

use std::time::Duration;

use super::tokens::{Kind, Token, TokenHash};
use crate::{
    store::{self, Reader, Records, Tx, UserNum, records::LoginToken},
    users::{Error, Users},
};

/// As the specification recommends.
const LIFETIME: Duration = Duration::from_mins(2);

/// Whom the token `hash` logs in.
pub(super) fn user(r: &impl Reader, hash: &TokenHash) -> Result<UserNum, Error> {
    let token = r.login_tokens()?.load(hash)?;
    Ok(token.ok_or(Error::InvalidLoginToken)?.user)
}

/// Removes the token `hash`.
///
/// # Errors
/// [`Error::InvalidLoginToken`] if it does not exist or has expired.
pub(super) fn redeem(tx: &Tx, hash: &TokenHash, now_ms: u64) -> Result<(), Error> {
    let token = tx.login_tokens()?.load(hash)?;
    match token {
        Some(token) if token.expires_ts > now_ms => {
            tx.login_tokens()?.remove(hash)?;
            Ok(())
        }
        _ => Err(Error::InvalidLoginToken),
    }
}

pub(in crate::users) fn remove_of(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    remove_where(tx, |token| token.user == user)
}

/// Reads the whole table, which has the tokens of two minutes.
fn remove_where(tx: &Tx, gone: impl Fn(&LoginToken) -> bool) -> Result<(), store::Error> {
    tx.login_tokens()?.remove_in::<TokenHash>(.., |_, token| {
        token.unpack().is_ok_and(|token| gone(&token))
    })
}

impl Users {
    /// A token that logs in a new client as `user`, once, and its lifetime.
    pub async fn login_token(&self, user: UserNum) -> Result<(Token, Duration), Error> {
        let token = Token::generate(Kind::Login);
        let (hash, now_ms) = (token.hash(), self.clock.now_ms());
        let record = LoginToken {
            user,
            expires_ts: now_ms + LIFETIME.as_millis() as u64,
        };
        let stored = self.store.write(move |tx| {
            remove_where(tx, |token| token.expires_ts <= now_ms)?;
            Ok::<_, Error>(tx.login_tokens()?.put(hash, &record)?)
        });
        stored.await?;
        Ok((token, LIFETIME))
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
    fn a_login_token_logs_in_once() {
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
    fn an_expired_login_token_is_refused_and_removed_when_the_next_is_made() {
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
