//! Authentication of requests by access token.

use std::{net::IpAddr, time::Duration};

use ruma::{OwnedDeviceId, OwnedUserId};
use smol::future::poll_once;

use super::{login_networks, logins, tokens};
use crate::{
    store::{
        self, DeviceNum, Reader, Records, Rows, Snapshot, Tx, UserNum,
        records::{AccessToken, Device},
    },
    users::{Error, Users, accounts, id_of},
};

/// Between two writes of `last_seen_ts`: each costs the SD card some kilobytes.
const LAST_SEEN_INTERVAL: Duration = Duration::from_hours(1);

/// A device that has authenticated by its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub device: DeviceNum,
    pub device_id: OwnedDeviceId,
    /// Whether the user may only log out.
    pub is_locked: bool,
    /// Whether the user may not act in rooms.
    pub is_suspended: bool,
}

impl Users {
    /// The session of an access token. `from` becomes the device's `last_seen_ip`.
    ///
    /// Writes, and waits, if it is the first use of a refreshed token, which revokes the pair before it.
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub async fn session(&self, token: &str, from: Option<IpAddr>) -> Result<Session, Error> {
        let hash = tokens::hash(token);
        let now_ms = self.clock.now_ms();
        let (token, session) = self.store.read(|s| look_up(s, &hash, now_ms))?;
        if let Some(replaced) = token.replaces {
            self.store
                .write_shrinking(move |tx| confirm(tx, &hash, &replaced))
                .await?;
        }
        if self.recently_seen.get(&session.device).is_none() {
            self.recently_seen
                .insert(session.device, (), LAST_SEEN_INTERVAL);
            let (user, device_id) = (session.user, session.device_id.clone());
            let job = move |tx: &Tx| set_last_seen(tx, user, &device_id, now_ms, from);
            // Polling once queues the job; nobody waits for it.
            poll_once(self.store.write_deferred(job)).await;
        }
        Ok(session)
    }
}

fn look_up(
    s: &Snapshot,
    hash: &tokens::TokenHash,
    now_ms: u64,
) -> Result<(AccessToken, Session), Error> {
    const UNKNOWN: Error = Error::UnknownToken { soft_logout: false };
    let token = s.access_tokens()?.load(hash)?.ok_or(UNKNOWN)?;
    if token.expires_ts.is_some_and(|end| end <= now_ms) {
        return Err(Error::UnknownToken { soft_logout: true });
    }
    let device_ids = s.device_ids()?;
    let device_id = device_ids.get(token.device)?.ok_or(UNKNOWN)?;
    let moderation = accounts::moderation(s, token.user)?;
    let session = Session {
        user: token.user,
        user_id: id_of(s, token.user)?,
        device: token.device,
        device_id: device_id.value().1.into(),
        is_locked: moderation.locked,
        is_suspended: moderation.suspended,
    };
    Ok((token, session))
}

/// Revokes the pair that the access token `hash` replaces: the client uses it, so it has received it.
fn confirm(
    tx: &Tx,
    hash: &tokens::TokenHash,
    replaced: &tokens::TokenHash,
) -> Result<(), store::Error> {
    let token = tx.access_tokens()?.load(hash)?;
    if let Some(token) = token {
        let token = AccessToken {
            replaces: None,
            ..token
        };
        tx.access_tokens()?.put(hash, &token)?;
        logins::revoke(tx, replaced)?;
    }
    Ok(())
}

fn set_last_seen(
    tx: &Tx,
    user: UserNum,
    device_id: &OwnedDeviceId,
    now_ms: u64,
    from: Option<IpAddr>,
) -> Result<(), store::Error> {
    if let Some(address) = from {
        login_networks::record(tx, user, address, now_ms)?;
    }
    let key = (user, device_id.as_str());
    let device = tx.devices()?.load(key)?;
    if let Some(device) = device {
        let device = Device {
            last_seen_ts: Some(now_ms),
            last_seen_ip: from.map(|ip| ip.to_string()).or(device.last_seen_ip),
            ..device
        };
        tx.devices()?.put(key, &device)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::users::testing::with_server;

    #[test]
    fn last_seen_is_written_once_an_hour_with_the_address() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let token = login.access_token.into_string();
            let mut seen = Vec::new();
            for ip in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
                let from = Some(ip.parse().unwrap());
                let session = server.users.session(&token, from).await.unwrap();
                // Commits, and what waited with it.
                let commit = server.store.write(|tx| tx.next_position());
                commit.await.unwrap();
                let device = server
                    .users
                    .device(session.user, &session.device_id)
                    .unwrap();
                seen.push((device.last_seen_ts.unwrap(), device.last_seen_ip.unwrap()));
                server.clock.advance(Duration::from_mins(31));
            }
            assert_eq!(seen[0], seen[1]);
            assert_eq!(seen[0].1, "10.0.0.1");
            assert_eq!(seen[2].1, "10.0.0.3");
            assert_eq!(
                Duration::from_millis(seen[2].0 - seen[0].0),
                Duration::from_mins(62)
            );
        });
    }
}
