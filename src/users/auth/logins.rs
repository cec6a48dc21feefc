//! Logging in, and refreshing access tokens.
//!
//! A refresh makes a new pair of tokens beside the old one. The old pair is revoked when either new token
//! is first used, so that a client that missed the response can repeat the request (client-server API,
//! "Refreshing access tokens"). Both responses of two concurrent refreshes work.

use std::time::Duration;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};

use super::{
    AuthenticatedUser,
    tokens::{self, Kind, Token, TokenHash},
};
use crate::{
    store::{
        self, DeviceNum, Reader, Records, Rows, Tx,
        records::{AccessToken, RefreshToken},
    },
    users::{Error, Users, accounts, devices, id_of},
};

/// The lifetime of access tokens that can be refreshed. A refresh costs two commits, so it is long to
/// spare the SD card.
const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_hours(12);
/// Pairs of tokens of one device: more than one if responses of refreshes were not used.
const MAX_TOKEN_PAIRS_PER_DEVICE: usize = 8;

#[derive(Clone, Debug, Default)]
pub struct NewLogin {
    /// The device to log in on. `None`, or an id that the user has no device of: a new device.
    pub device_id: Option<OwnedDeviceId>,
    /// For a new device.
    pub display_name: Option<String>,
    /// Whether the client can refresh its access token. Then that token expires.
    pub refreshable: bool,
}

impl NewLogin {
    /// # Errors
    /// [`Error::InvalidParam`] if the device id or the display name is too long.
    pub fn check(&self) -> Result<(), Error> {
        self.device_id
            .as_deref()
            .map_or(Ok(()), devices::check_id)?;
        self.display_name
            .as_deref()
            .map_or(Ok(()), devices::check_display_name)
    }
}

/// The response to a login or a refresh.
#[derive(Clone, Debug)]
pub struct Login {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub access_token: Token,
    pub refresh_token: Option<Token>,
    /// The lifetime of the access token.
    pub expires_in: Option<Duration>,
}

/// A login with its tokens generated, so that the job that stores it can run twice.
#[derive(Clone)]
pub(in crate::users) struct Prepared {
    device_id: OwnedDeviceId,
    display_name: Option<String>,
    pair: Pair,
    now_ms: u64,
}

#[derive(Clone)]
struct Pair {
    access: Token,
    refresh: Option<Token>,
    expires_ts: Option<u64>,
}

impl Pair {
    fn generate(refreshable: bool, now_ms: u64) -> Self {
        let lifetime = ACCESS_TOKEN_LIFETIME.as_millis() as u64;
        Self {
            access: Token::generate(Kind::Access),
            refresh: refreshable.then(|| Token::generate(Kind::Refresh)),
            expires_ts: refreshable.then_some(now_ms + lifetime),
        }
    }

    fn store(
        &self,
        tx: &Tx,
        user: store::UserNum,
        device: DeviceNum,
        replaces: Option<TokenHash>,
    ) -> Result<(), store::Error> {
        let access = self.access.hash();
        let token = AccessToken {
            user,
            device,
            expires_ts: self.expires_ts,
            replaces,
        };
        tx.access_tokens()?.put(access, &token)?;
        tx.device_tokens()?.insert((device, access), ())?;
        if let Some(refresh) = self.refresh.as_ref().map(Token::hash) {
            let token = RefreshToken {
                user,
                device,
                access,
                replaces,
            };
            tx.refresh_tokens()?.put(refresh, &token)?;
            tx.device_tokens()?.insert((device, refresh), ())?;
        }
        Ok(())
    }

    fn login(&self, user_id: OwnedUserId, device_id: OwnedDeviceId) -> Login {
        Login {
            user_id,
            device_id,
            access_token: self.access.clone(),
            refresh_token: self.refresh.clone(),
            expires_in: self.expires_ts.map(|_| ACCESS_TOKEN_LIFETIME),
        }
    }
}

/// Redeems the authentication and stores a login.
pub(in crate::users) fn make(
    tx: &Tx,
    authenticated: &AuthenticatedUser,
    new: &Prepared,
) -> Result<Login, Error> {
    authenticated.redeem(tx, new.now_ms)?;
    let user = authenticated.user();
    let device = devices::get_or_create(
        tx,
        user,
        &new.device_id,
        new.display_name.as_ref(),
        new.now_ms,
    )?;
    new.pair.store(tx, user, device, None)?;
    let user_id = authenticated.user_id().to_owned();
    Ok(new.pair.login(user_id, new.device_id.clone()))
}

/// Removes the refresh token `hash` and the access token of its pair, if they exist.
pub(in crate::users) fn revoke(tx: &Tx, hash: &TokenHash) -> Result<(), store::Error> {
    let token = tx.refresh_tokens()?.load(hash)?;
    if let Some(token) = token {
        tx.refresh_tokens()?.remove(hash)?;
        tx.access_tokens()?.remove(token.access)?;
        let mut of_device = tx.device_tokens()?;
        of_device.remove((token.device, *hash))?;
        of_device.remove((token.device, token.access))?;
    }
    Ok(())
}

impl Users {
    /// # Errors
    /// Those of [`AuthenticatedUser`] if it no longer holds; [`Error::InvalidParam`] if the device id or
    /// the name of the device is too long.
    pub async fn log_in(
        &self,
        authenticated: AuthenticatedUser,
        new: NewLogin,
    ) -> Result<Login, Error> {
        let new = self.prepare(new)?;
        let job = move |tx: &Tx| make(tx, &authenticated, &new);
        self.store.write(job).await
    }

    /// A new pair of tokens for a refresh token.
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub async fn refresh(&self, refresh_token: &str) -> Result<Login, Error> {
        let hash = tokens::hash(refresh_token);
        let pair = Pair::generate(true, self.clock.now_ms());
        self.store.write(move |tx| refresh(tx, &hash, &pair)).await
    }

    pub(in crate::users) fn prepare(&self, new: NewLogin) -> Result<Prepared, Error> {
        new.check()?;
        let NewLogin {
            device_id,
            display_name,
            refreshable,
        } = new;
        let device_id = device_id.unwrap_or_else(DeviceId::new);
        let now_ms = self.clock.now_ms();
        Ok(Prepared {
            device_id,
            display_name,
            pair: Pair::generate(refreshable, now_ms),
            now_ms,
        })
    }
}

fn refresh(tx: &Tx, hash: &TokenHash, pair: &Pair) -> Result<Login, Error> {
    const UNKNOWN: Error = Error::UnknownToken { soft_logout: false };
    let token = tx.refresh_tokens()?.load(hash)?.ok_or(UNKNOWN)?;
    let device_id: OwnedDeviceId = {
        let device_ids = tx.device_ids()?;
        let row = device_ids.get(token.device)?.ok_or(UNKNOWN)?;
        row.value().1.into()
    };
    if accounts::moderation(tx, token.user)?.locked {
        return Err(Error::Locked);
    }
    let user_id = id_of(tx, token.user)?;
    if let Some(replaced) = token.replaces {
        revoke(tx, &replaced)?;
        let token = RefreshToken {
            replaces: None,
            ..token.clone()
        };
        tx.refresh_tokens()?.put(hash, &token)?;
    }
    evict_oldest_pair(tx, token.device, hash)?;
    pair.store(tx, token.user, token.device, Some(*hash))?;
    Ok(pair.login(user_id, device_id))
}

/// Revokes the oldest pair of `device`, except that of `used`, if the device has
/// [`MAX_TOKEN_PAIRS_PER_DEVICE`].
fn evict_oldest_pair(tx: &Tx, device: DeviceNum, used: &TokenHash) -> Result<(), store::Error> {
    let mut pairs = Vec::new();
    for row in tx.device_tokens()?.prefix(device)? {
        pairs.push(row?.0.value().1);
    }
    let mut oldest: Option<(Option<u64>, TokenHash)> = None;
    let mut count = 0;
    for hash in pairs {
        let Some(refresh) = tx.refresh_tokens()?.load(hash)? else {
            continue;
        };
        count += 1;
        let access = tx.access_tokens()?.load(refresh.access)?;
        let age = (access.and_then(|access| access.expires_ts), hash);
        if hash != *used && oldest.is_none_or(|oldest| age < oldest) {
            oldest = Some(age);
        }
    }
    match oldest {
        Some((_, hash)) if count >= MAX_TOKEN_PAIRS_PER_DEVICE => revoke(tx, &hash),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use smol::future::zip;

    use super::*;
    use crate::users::testing::{Server, across_a_restart, with_server};

    fn on(device_id: &str) -> NewLogin {
        NewLogin {
            device_id: Some(device_id.into()),
            ..NewLogin::default()
        }
    }

    fn refreshable() -> NewLogin {
        NewLogin {
            refreshable: true,
            ..NewLogin::default()
        }
    }

    async fn refresh(server: &Server, login: &Login) -> Result<Login, Error> {
        let token = login.refresh_token.clone().unwrap().into_string();
        server.users.refresh(&token).await
    }

    #[test]
    fn tokens_survive_a_restart() {
        across_a_restart(
            async |server| server.register_with("alice", refreshable()).await,
            async |server, login| {
                let session = server.session(&login).await;
                assert_eq!(session.user_id, login.user_id);
                assert_eq!(session.device_id, login.device_id);
                assert!(refresh(&server, &login).await.is_ok());
            },
        );
    }

    #[test]
    fn a_login_on_a_known_device_keeps_the_device_and_revokes_its_old_tokens() {
        with_server(async |server| {
            let named = |name: &str| NewLogin {
                display_name: Some(name.into()),
                refreshable: true,
                ..on("PHONE")
            };
            let old = server.register_with("alice", named("old")).await;
            let num = server.session(&old).await.device;
            let new = server.log_in("alice", named("new")).await;
            assert!(!server.is_logged_in(&old).await);
            assert!(refresh(&server, &old).await.is_err());
            let session = server.session(&new).await;
            assert_eq!(session.device, num);
            let device = server.users.device(session.user, &new.device_id).unwrap();
            assert_eq!(device.display_name.as_deref(), Some("old"));
        });
    }

    #[test]
    fn two_users_can_have_devices_with_the_same_id() {
        with_server(async |server| {
            let alice = server.register_with("alice", on("PHONE")).await;
            let bob = server.register_with("bob", on("PHONE")).await;
            assert_ne!(
                server.session(&alice).await.device,
                server.session(&bob).await.device
            );
        });
    }

    #[test]
    fn an_access_token_without_refresh_token_does_not_expire() {
        with_server(async |server| {
            let login = server.register("alice").await;
            assert!(login.refresh_token.is_none() && login.expires_in.is_none());
            server.clock.advance(Duration::from_hours(24 * 365));
            assert!(server.is_logged_in(&login).await);
        });
    }

    #[test]
    fn an_expired_access_token_is_a_soft_logout_and_can_be_refreshed() {
        with_server(async |server| {
            let login = server.register_with("alice", refreshable()).await;
            server.clock.advance(login.expires_in.unwrap());
            let token = login.access_token.clone().into_string();
            assert!(matches!(
                server.users.session(&token, None).await,
                Err(Error::UnknownToken { soft_logout: true })
            ));
            assert!(matches!(
                server.users.session("hth_never", None).await,
                Err(Error::UnknownToken { soft_logout: false })
            ));
            let login = refresh(&server, &login).await.unwrap();
            assert!(server.is_logged_in(&login).await);
        });
    }

    #[test]
    fn a_refresh_whose_response_was_lost_can_be_repeated() {
        with_server(async |server| {
            let old = server.register_with("alice", refreshable()).await;
            refresh(&server, &old).await.unwrap();
            assert!(server.is_logged_in(&old).await);
            let new = refresh(&server, &old).await.unwrap();
            assert_eq!(new.device_id, old.device_id);
            assert!(server.is_logged_in(&new).await);
        });
    }

    #[test]
    fn using_the_new_access_token_revokes_the_old_pair() {
        with_server(async |server| {
            let old = server.register_with("alice", refreshable()).await;
            let new = refresh(&server, &old).await.unwrap();
            assert!(server.is_logged_in(&new).await);
            assert!(!server.is_logged_in(&old).await);
            assert!(refresh(&server, &old).await.is_err());
            assert!(server.is_logged_in(&new).await);
        });
    }

    #[test]
    fn using_the_new_refresh_token_revokes_the_old_pair() {
        with_server(async |server| {
            let old = server.register_with("alice", refreshable()).await;
            let new = refresh(&server, &old).await.unwrap();
            let newest = refresh(&server, &new).await.unwrap();
            assert!(!server.is_logged_in(&old).await);
            assert!(refresh(&server, &old).await.is_err());
            assert!(server.is_logged_in(&new).await);
            assert!(server.is_logged_in(&newest).await);
            assert!(!server.is_logged_in(&new).await);
        });
    }

    #[test]
    fn both_responses_of_two_concurrent_refreshes_work() {
        with_server(async |server| {
            let old = server.register_with("alice", refreshable()).await;
            let (one, two) = zip(refresh(&server, &old), refresh(&server, &old)).await;
            let (one, two) = (one.unwrap(), two.unwrap());
            assert!(server.is_logged_in(&one).await && server.is_logged_in(&two).await);
            assert!(refresh(&server, &old).await.is_err());
            assert!(refresh(&server, &one).await.is_ok());
            assert!(refresh(&server, &two).await.is_ok());
        });
    }

    #[test]
    fn a_client_that_only_refreshes_has_a_bounded_number_of_tokens() {
        with_server(async |server| {
            let old = server.register_with("alice", refreshable()).await;
            let mut newest = old.clone();
            for _ in 0..3 * MAX_TOKEN_PAIRS_PER_DEVICE {
                newest = refresh(&server, &old).await.unwrap();
                server.clock.advance(Duration::from_secs(1));
            }
            let count = |s: &store::Snapshot| s.device_tokens()?.len();
            assert_eq!(
                server.store.read(count).unwrap(),
                2 * MAX_TOKEN_PAIRS_PER_DEVICE as u64,
                "each pair is two tokens"
            );
            assert!(server.is_logged_in(&newest).await);
        });
    }

    #[test]
    fn access_and_refresh_tokens_are_not_interchangeable() {
        with_server(async |server| {
            let login = server.register_with("alice", refreshable()).await;
            let access = login.access_token.into_string();
            assert!(server.users.refresh(&access).await.is_err());
            let refresh = login.refresh_token.unwrap().into_string();
            assert!(server.users.session(&refresh, None).await.is_err());
        });
    }
}
