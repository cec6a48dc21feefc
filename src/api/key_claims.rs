//! Claims of one-time keys of local users, for clients and for other servers.
//!
//! A key has up to 32 KiB, and a request names thousands of devices. So keys are claimed while the response is
//! sent, each job when the keys of the one before are on their way: of what nobody reads, one job's keys are
//! lost at most, and what the connection buffers.

use std::{collections::BTreeMap, mem, sync::Arc};

use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    api::federation::keys::claim_keys::v1::{OneTimeKeyClaims, OneTimeKeys},
    encryption::OneTimeKey,
    serde::{JsonObject, Raw},
};
use serde::Serialize;
use smol::stream::{self, StreamExt};

use super::{
    Error, Streamed,
    keys::{MAX_KEYS, raw_value},
};
use crate::{
    store::{PIECE_BYTES, Reader, Records, Store, Tx},
    users::{
        self,
        keys::one_time_keys::{self, Claimable},
    },
};

/// The most keys that one job claims.
const MAX_CLAIMS_PER_JOB: usize = 100;

/// A key that is to be claimed of a device of a local user.
#[derive(Debug)]
pub(super) struct Claim {
    user: OwnedUserId,
    device: OwnedDeviceId,
    algorithm: OneTimeKeyAlgorithm,
    claimable: Claimable,
}

pub(super) fn check_count(wanted: &OneTimeKeyClaims) -> Result<(), Error> {
    if wanted.values().map(BTreeMap::len).sum::<usize>() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "one_time_keys may have at most {MAX_KEYS} devices"
        )));
    }
    Ok(())
}

/// The claims of each user, one after the other. Of those that `is_limited`, only the fallback key is claimed.
pub(super) fn claims(
    wanted: OneTimeKeyClaims,
    mut is_limited: impl FnMut(&UserId, &DeviceId) -> bool,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (user, devices) in wanted {
        for (device, algorithm) in devices {
            let claimable = match is_limited(&user, &device) {
                true => Claimable::FallbackOnly,
                false => Claimable::All,
            };
            claims.push(Claim {
                user: user.clone(),
                device,
                algorithm,
                claimable,
            });
        }
    }
    claims
}

/// The keys of one device of a user of another server.
type RemoteKeys = (
    OwnedUserId,
    OwnedDeviceId,
    BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
);

/// The response to a claim.
pub(super) struct ClaimedKeys<H> {
    claims: Arc<[Claim]>,
    /// How many of them are done.
    done: usize,
    /// What other servers gave.
    remote: Box<dyn Iterator<Item = RemoteKeys> + Send>,
    /// Of other servers; only clients get them.
    failures: Option<JsonObject>,
    writer: Writer,
    is_complete: bool,
    /// Until the response is sent.
    _held: H,
}

impl<H: Send + 'static> ClaimedKeys<H> {
    /// `remote` and `failures` are for clients. `held` is dropped when the response has been sent.
    pub(super) fn new(
        claims: Vec<Claim>,
        remote: OneTimeKeys,
        failures: Option<JsonObject>,
        held: H,
    ) -> Self {
        let remote = remote.into_iter().flat_map(|(user, devices)| {
            let devices = devices.into_iter();
            devices.map(move |(device, keys)| (user.clone(), device, keys))
        });
        Self {
            claims: claims.into(),
            done: 0,
            remote: Box::new(remote),
            failures,
            writer: Writer::new(),
            is_complete: false,
            _held: held,
        }
    }

    /// # Errors
    /// If the first keys cannot be claimed.
    pub(super) async fn into_response(mut self, store: &Store) -> Result<Streamed, Error> {
        let first = self.next_piece(store).await?;
        let rest = stream::try_unfold((self, store.clone()), async |(mut this, store)| {
            if this.is_complete {
                return Ok(None);
            }
            let piece = this.next_piece(&store).await?;
            Ok(Some((piece, (this, store))))
        });
        Ok(Streamed::new(stream::once(Ok(first)).chain(rest)))
    }

    async fn next_piece(&mut self, store: &Store) -> Result<Vec<u8>, Error> {
        while !self.is_complete && self.writer.out.len() < PIECE_BYTES {
            if self.done < self.claims.len() {
                self.claim_more(store).await?;
            } else if let Some((user, device, keys)) = self.remote.next() {
                self.writer.add(&user, &device, &keys)?;
            } else {
                self.writer.finish(self.failures.as_ref())?;
                self.is_complete = true;
            }
        }
        Ok(mem::take(&mut self.writer.out))
    }

    async fn claim_more(&mut self, store: &Store) -> Result<(), Error> {
        let (claims, first) = (self.claims.clone(), self.done);
        let job = move |tx: &Tx| claim_some(tx, &claims, first);
        let claimed = store.write(job).await?;
        self.done = claimed.done;
        for (index, id, key) in claimed.keys {
            let Claim { user, device, .. } = &self.claims[index];
            self.writer
                .add(user, device, &BTreeMap::from([(id, key)]))?;
        }
        Ok(())
    }
}

/// What a job has claimed.
struct Claimed {
    /// How many claims are done.
    done: usize,
    /// The index of the claim, the id of the key and the key.
    keys: Vec<(usize, OwnedOneTimeKeyId, Raw<OneTimeKey>)>,
}

/// Claims keys from claim number `first` on, as many as one piece of the response has.
fn claim_some(tx: &Tx, claims: &[Claim], first: usize) -> Result<Claimed, users::Error> {
    let (mut bytes, mut keys, mut done) = (0, Vec::new(), first);
    let last = claims.len().min(first + MAX_CLAIMS_PER_JOB);
    while done < last && bytes < PIECE_BYTES {
        if let Some((id, key)) = claim(tx, &claims[done])? {
            bytes += key.json().get().len();
            keys.push((done, id, key));
        }
        done += 1;
    }
    Ok(Claimed { done, keys })
}

fn claim(
    tx: &Tx,
    claim: &Claim,
) -> Result<Option<(OwnedOneTimeKeyId, Raw<OneTimeKey>)>, users::Error> {
    let Some(user) = users::num_of(tx, &claim.user)? else {
        return Ok(None);
    };
    let Some(device) = tx.devices()?.load((user, claim.device.as_str()))? else {
        return Ok(None);
    };
    let algorithm = claim.algorithm.as_ref();
    let key = one_time_keys::claim(tx, user, device.num, algorithm, claim.claimable)?;
    Ok(key.and_then(|(id, json)| Some((id.try_into().ok()?, Raw::from_json_string(json).ok()?))))
}

/// Writes the response.
struct Writer {
    out: Vec<u8>,
    /// Whose object is open.
    user: Option<OwnedUserId>,
}

impl Writer {
    fn new() -> Self {
        Self {
            out: br#"{"one_time_keys":{"#.to_vec(),
            user: None,
        }
    }

    /// Appends the keys of a device. Those of one user come one after the other.
    fn add(
        &mut self,
        user: &UserId,
        device: &DeviceId,
        keys: &impl Serialize,
    ) -> Result<(), Error> {
        // Names may hold characters that JSON escapes.
        match self.user.as_deref() {
            Some(open) if open == user => self.out.push(b','),
            open => {
                let separator = if open.is_some() { "}," } else { "" };
                let name = raw_value(&user)?;
                self.out.extend(format!("{separator}{name}:{{").bytes());
                self.user = Some(user.to_owned());
            }
        }
        let (name, keys) = (raw_value(&device)?, raw_value(keys)?);
        self.out.extend(format!("{name}:{keys}").bytes());
        Ok(())
    }

    fn finish(&mut self, failures: Option<&JsonObject>) -> Result<(), Error> {
        let end = if self.user.is_some() { "}}" } else { "}" };
        self.out.extend(end.bytes());
        if let Some(failures) = failures {
            let failures = raw_value(failures)?;
            self.out
                .extend(format!(r#","failures":{failures}"#).bytes());
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{
        OneTimeKeyAlgorithm, OwnedDeviceId, UserId,
        api::federation::keys::claim_keys::v1::{OneTimeKeyClaims, OneTimeKeys},
        serde::{JsonObject, Raw},
        user_id,
    };
    use serde_json::{Value, json, value::to_raw_value};

    use super::{ClaimedKeys, claims};
    use crate::{
        rooms::tests::with_store,
        store::{PIECE_BYTES, Reader, Store, Tx, records::Device},
        users::{self, keys::one_time_keys},
    };

    const DEVICES: usize = 30;
    const KEY_BYTES: usize = 30_000;
    const KEY_ID: &str = "signed_curve25519:K";

    fn device_id(number: usize) -> String {
        format!("D\"{number}")
    }

    /// Gives each of many devices of a user a large one-time key.
    async fn add_keys(store: &Store, user_id: &'static UserId) {
        let job = move |tx: &Tx| {
            let user = tx.user_num(user_id.as_str())?;
            for number in 0..DEVICES {
                let device = Device {
                    num: tx.next_device()?,
                    display_name: None,
                    last_seen_ts: None,
                    last_seen_ip: None,
                };
                tx.devices()?.put((user, &*device_id(number)), &device)?;
                let key = to_raw_value(&large_key()).expect("JSON");
                let keys = BTreeMap::from([(KEY_ID.to_owned(), key)]);
                one_time_keys::add(tx, device.num, &keys)?;
            }
            Ok::<_, users::Error>(())
        };
        store.write(job).await.expect("keys are stored");
    }

    fn large_key() -> Value {
        json!({ "key": "k".repeat(KEY_BYTES) })
    }

    /// Of all devices, and of one that does not exist.
    fn wanted(users: &[&UserId]) -> OneTimeKeyClaims {
        let devices = (0..=DEVICES).map(|number| {
            let device = OwnedDeviceId::from(device_id(number));
            (device, OneTimeKeyAlgorithm::SignedCurve25519)
        });
        let devices: BTreeMap<_, _> = devices.collect();
        let users = users.iter().map(|user| (*user).to_owned());
        users.map(|user| (user, devices.clone())).collect()
    }

    fn keys_of_devices() -> Value {
        let devices = 0..DEVICES;
        devices
            .map(|number| (device_id(number), json!({ KEY_ID: large_key() })))
            .collect()
    }

    #[test]
    fn keys_are_claimed_while_the_response_is_sent_in_pieces() {
        let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:a.example"));
        let (nobody, carol) = (user_id!("@b:a.example"), user_id!("@carol:c.example"));
        with_store(async |store| {
            add_keys(store, alice).await;
            add_keys(store, bob).await;
            let claims = claims(wanted(&[alice, nobody, bob]), |_, _| false);
            let key = Raw::from_json(to_raw_value(&large_key()).expect("JSON"));
            let of_device = BTreeMap::from([(KEY_ID.try_into().expect("an id"), key)]);
            let of_carol = BTreeMap::from([("C".into(), of_device)]);
            let remote = OneTimeKeys::from([(carol.to_owned(), of_carol)]);
            let failures = JsonObject::from_iter([("d.example".to_owned(), json!({}))]);
            let mut claimed = ClaimedKeys::new(claims, remote, Some(failures), ());
            let mut pieces = Vec::new();
            while !claimed.is_complete {
                let piece = claimed.next_piece(store).await;
                pieces.push(piece.expect("keys are claimed"));
                if pieces.len() == 1 {
                    assert!(claimed.done < DEVICES, "the others are not claimed yet");
                }
            }
            let largest = pieces.iter().map(Vec::len).max().unwrap_or_default();
            assert!(largest < 3 * PIECE_BYTES, "{largest}");
            let response: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
            let expected = json!({
                "one_time_keys": {
                    alice.as_str(): keys_of_devices(),
                    bob.as_str(): keys_of_devices(),
                    carol.as_str(): { "C": { KEY_ID: large_key() } },
                },
                "failures": { "d.example": {} },
            });
            assert!(response == expected);
        });
    }

    #[test]
    fn a_claim_of_nothing_has_an_empty_response() {
        with_store(async |store| {
            for (failures, expected) in [
                (None, r#"{"one_time_keys":{}}"#),
                (
                    Some(JsonObject::new()),
                    r#"{"one_time_keys":{},"failures":{}}"#,
                ),
            ] {
                let mut none = ClaimedKeys::new(Vec::new(), OneTimeKeys::new(), failures, ());
                let response = none.next_piece(store).await.expect("a response");
                assert!(none.is_complete);
                assert_eq!(response, expected.as_bytes());
            }
        });
    }
}
