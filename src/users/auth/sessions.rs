//! Whose request this is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedDeviceId, OwnedUserId};
use smol::future::poll_once;

use super::{logins, tokens};
use crate::{
    store::{
        self, DeviceNum, Reader, Records, Rows, Snapshot, Tx, UserNum,
        records::{AccessToken, Device},
    },
    users::{Error, Users, id_of},
};

/// How often it is written down that a device was seen: each time costs the card some kilobytes.
const SEEN_EVERY_MS: u64 = 60 * 60 * 1000;
/// For how many devices memory holds when that was last written.
const SEEN_HELD: usize = 4096;

/// A device of a user of this server, proven by its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user: UserNum,
    /// The user's id.
    pub user_id: OwnedUserId,
    /// The device.
    pub device: DeviceNum,
    /// The device's id.
    pub device_id: OwnedDeviceId,
}

/// When it was last written that a device was seen.
#[derive(Debug, Default)]
pub(in crate::users) struct LastSeen(Mutex<HashMap<DeviceNum, u64>>);

impl LastSeen {
    /// Whether it is time to write again, which is taken as done.
    fn is_due(&self, device: DeviceNum, now_ms: u64) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = written
            .get(&device)
            .is_none_or(|at| now_ms.abs_diff(*at) >= SEEN_EVERY_MS);
        if due {
            if written.len() >= SEEN_HELD {
                // Forgetting costs one early write for each device, now and then.
                written.clear();
            }
            written.insert(device, now_ms);
        }
        due
    }
}

impl Users {
    /// Whom `token` lets in. `from` is the address that is noted as the device's last one.
    ///
    /// Waits only for the first use of a refreshed token, which ends the tokens before it.
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
        if self.last_seen.is_due(session.device, now_ms) {
            let (user, device_id) = (session.user, session.device_id.clone());
            let job = move |tx: &Tx| seen(tx, user, &device_id, now_ms, from);
            // Polled once, which queues it: nobody waits for this to be written.
            poll_once(self.store.write_soon(job)).await;
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
    let session = Session {
        user: token.user,
        user_id: id_of(s, token.user)?,
        device: token.device,
        device_id: device_id.value().1.into(),
    };
    Ok((token, session))
}

/// The access token `hash` is in use, so the client has it: what it replaces ends.
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

fn seen(
    tx: &Tx,
    user: UserNum,
    device_id: &OwnedDeviceId,
    now_ms: u64,
    from: Option<IpAddr>,
) -> Result<(), store::Error> {
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
    fn it_is_noted_once_an_hour_that_a_device_was_seen_and_from_where() {
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
