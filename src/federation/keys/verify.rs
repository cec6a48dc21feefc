//! Checking of signatures: of requests, and of events.

use std::{collections::BTreeMap, net::IpAddr};

use ruma::{
    OwnedServerName, ServerName,
    api::federation::authentication::XMatrix,
    signatures::{PublicKeyMap, PublicKeySet},
};

use super::{
    fetch::{Fetcher, Keys},
    known::{KnownKeys, WantedKey},
};
use crate::{
    pool::Kind,
    protocol::{
        receive::{Incoming, ReceiveError, Received},
        signed_object::is_signature,
        signed_request::SignedRequest,
    },
    rooms,
};

/// More events are checked on the pool.
const MAX_IN_PLACE: usize = 4;
/// Requests with larger bodies are checked on the pool.
const MAX_BYTES_IN_PLACE: usize = 64 * 1024;
/// How many events are checked at once on the pool.
const POOL_BATCH: usize = 100;
/// How many signatures of one server on an event are looked at.
const MAX_SIGNATURES: usize = 8;

impl Keys {
    /// Whether the key of `signature` is known, perhaps after a fetch from its origin. A `requester` is a
    /// network that has not shown yet whose it is: it waits until it has a share of the requests.
    pub async fn has_key_of(
        &self,
        signature: &XMatrix,
        requester: Option<IpAddr>,
    ) -> Result<bool, rooms::Error> {
        let wanted = self.wanted_by_request(signature);
        let enough = |known: &KnownKeys| known.satisfies(&wanted);
        let origin = &signature.origin;
        let known = match requester {
            Some(network) if !enough(&self.stored(origin)?) => {
                let permit = self.0.origin_permits.acquire(network).await;
                let work = |keys: Self, origin: OwnedServerName| async move {
                    keys.fetch_unauthenticated(&origin, network, permit).await
                };
                self.of_server_by(origin, enough, Fetcher::Unauthenticated, work)
                    .await?
            }
            _ => self.of_server(origin, enough).await?,
        };
        Ok(enough(&known))
    }

    fn wanted_by_request(&self, signature: &XMatrix) -> [WantedKey; 1] {
        [WantedKey {
            id: signature.key.to_string(),
            valid_at_ts: self.0.clock.now_ms(),
        }]
    }

    /// What is signed of `request`, if the origin that `signature` names has signed it.
    ///
    /// Source: server-server API, "Request authentication".
    pub async fn verify_request(
        &self,
        signature: &XMatrix,
        request: http::Request<Vec<u8>>,
    ) -> Result<Option<SignedRequest>, rooms::Error> {
        let wanted = self.wanted_by_request(signature);
        let enough = |known: &KnownKeys| known.satisfies(&wanted);
        let known = self.of_server(&signature.origin, enough).await?;
        let keys = known.valid_at(Some(wanted[0].valid_at_ts));
        let (signature, local) = (signature.clone(), self.0.local.clone());
        let is_large = request.body().len() > MAX_BYTES_IN_PLACE;
        let verify = move || verified(&signature, &request, local.server_name(), &keys);
        match is_large {
            false => Ok(verify()),
            true => Ok(self.0.pool.run(Kind::Parse, verify).await?),
        }
    }

    /// Checks the signatures and hashes of `events`.
    pub async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
        let known = self.of_servers(wanted_by(&events)).await;
        let events: Vec<(Incoming, PublicKeyMap)> = events
            .into_iter()
            .map(|event| {
                let keys = keys_for(&event, &known);
                (event, keys)
            })
            .collect();
        let verify = |events: Vec<(Incoming, PublicKeyMap)>| {
            let each = events.into_iter();
            each.map(|(event, keys)| event.verify(&keys)).collect()
        };
        if events.len() <= MAX_IN_PLACE {
            return verify(events);
        }
        let mut results = Vec::new();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let batch: Vec<_> = events.by_ref().take(POOL_BATCH).collect();
            let again = batch.clone();
            match self.0.pool.run(Kind::Verify, move || verify(batch)).await {
                Ok(verified) => results.extend::<Vec<_>>(verified),
                // The pool is busy.
                Err(_) => results.extend::<Vec<_>>(verify(again)),
            }
        }
        results
    }

    /// The keys of several servers, fetched concurrently.
    async fn of_servers(
        &self,
        wanted: BTreeMap<OwnedServerName, Vec<WantedKey>>,
    ) -> BTreeMap<OwnedServerName, KnownKeys> {
        let fetches: Vec<_> = wanted
            .iter()
            .map(|(server, wanted)| {
                let (keys, server, wanted) = (self.clone(), server.clone(), wanted.clone());
                self.0.executor.spawn(async move {
                    let _permit = keys.0.permits.acquire().await;
                    let enough = |known: &KnownKeys| known.satisfies(&wanted);
                    let known = keys.of_server(&server, enough).await;
                    (server, known.unwrap_or_default())
                })
            })
            .collect();
        let mut known = BTreeMap::new();
        for fetch in fetches {
            let (server, keys) = fetch.await;
            known.insert(server, keys);
        }
        if let Err(error) = self.add_from_notaries(wanted, &mut known).await {
            let servers: Vec<_> = known.keys().collect();
            log::error!("the keys of {servers:?} are not fetched from notaries: {error}");
        }
        known
    }
}

fn verified(
    signature: &XMatrix,
    request: &http::Request<impl AsRef<[u8]>>,
    destination: &ServerName,
    keys: &PublicKeySet,
) -> Option<SignedRequest> {
    let named = signature.destination.as_deref();
    if named.is_some_and(|named| named != destination) {
        return None;
    }
    let key = keys.get(signature.key.as_str())?;
    let signed = SignedRequest::new(request, &signature.origin, destination).ok()?;
    is_signature(&signature.sig, key, signed.text()).then_some(signed)
}

/// The keys with which `events` claim to be signed.
fn wanted_by(events: &[Incoming]) -> BTreeMap<OwnedServerName, Vec<WantedKey>> {
    let mut wanted: BTreeMap<OwnedServerName, Vec<WantedKey>> = BTreeMap::new();
    for event in events {
        let valid_at_ts = valid_at_ts(event).unwrap_or(0);
        for server in event.signers().unwrap_or_default() {
            let ids = event.key_ids(server.as_str()).take(MAX_SIGNATURES);
            let keys: Vec<_> = ids.map(|id| WantedKey { id, valid_at_ts }).collect();
            wanted.entry(server).or_default().extend(keys);
        }
    }
    wanted
}

/// When the keys of an event must have been valid, if its room version says so.
fn valid_at_ts(event: &Incoming) -> Option<u64> {
    let ts = event
        .enforces_key_validity()
        .then(|| event.origin_server_ts())??;
    Some(u64::try_from(ts).unwrap_or(0))
}

fn keys_for(event: &Incoming, known: &BTreeMap<OwnedServerName, KnownKeys>) -> PublicKeyMap {
    let signers = event.signers().unwrap_or_default().into_iter();
    let keys = signers.filter_map(|server| {
        let valid = known.get(&server)?.valid_at(valid_at_ts(event));
        Some((server.to_string(), valid))
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{
        OwnedServerName, RoomVersionId,
        api::federation::authentication::XMatrix,
        serde::Base64,
        server_name,
        signatures::{KeyPair, PublicKeySet},
    };
    use serde_json::Value;

    use super::{KnownKeys, MAX_SIGNATURES, keys_for, verified, wanted_by};
    use crate::{
        protocol::{ServerKey, history::History, receive::Incoming, versions},
        store::records::RemoteKey,
    };

    #[test]
    fn a_request_is_accepted_only_with_its_signature_whatever_its_numbers_and_its_depth() {
        let (origin, destination) = (server_name!("a.example"), server_name!("b.example"));
        let key = ServerKey::generate();
        let keys = PublicKeySet::from([(key.id().to_string(), key.public_key())]);
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let uri = "/_matrix/federation/v1/send/1";
        for body in [
            r#"{"a":0.5,"b":9007199254740992}"#,
            r#"{"a":1e400}"#,
            "{}",
            &deep,
        ] {
            let signed = format!(
                r#"{{"content":{body},"destination":"b.example","method":"PUT","origin":"a.example","uri":"{uri}"}}"#
            );
            let (_, signature) = key.sign(signed.as_bytes()).into_parts();
            let signature = XMatrix::new(
                origin.to_owned(),
                destination.to_owned(),
                key.id().to_owned(),
                Base64::new(signature),
            );
            let verify = |body: &str, uri: &str, destination| {
                let request = http::Request::put(uri).body(body.as_bytes()).unwrap();
                let signed = verified(&signature, &request, destination, &keys);
                signed.map(|signed| String::from_utf8(signed.into_body()).unwrap())
            };
            assert_eq!(verify(body, uri, destination).unwrap(), body);
            assert_eq!(
                verify(&format!(" {body}\n"), uri, destination).unwrap(),
                body
            );
            assert_eq!(verify(&format!("[{body}]"), uri, destination), None);
            assert_eq!(verify(&body[1..], uri, destination), None);
            assert_eq!(verify("", uri, destination), None);
            let other = "/_matrix/federation/v1/send/2";
            assert_eq!(verify(body, other, destination), None);
            assert_eq!(verify(body, uri, origin), None);
            let request = http::Request::put(uri).body(body.as_bytes()).unwrap();
            let mut for_another = signature.clone();
            for_another.destination = Some(origin.to_owned());
            assert!(verified(&for_another, &request, destination, &keys).is_none());
        }
    }

    /// The second event of a new room, signed by a.example, and the set of keys with its key, valid until `offset`
    /// milliseconds after it was sent.
    fn event_and_keys(
        version: &RoomVersionId,
        offset: i64,
    ) -> (Incoming, BTreeMap<OwnedServerName, KnownKeys>) {
        let history = History::public(version, "@alice:a.example");
        let event = Incoming::parse(&history.events[1].json, history.rules).expect("an event");
        let sent = event.origin_server_ts().expect("a time");
        let key = History::key("a.example");
        let record = RemoteKey {
            key: key.public_key().as_bytes().try_into().expect("a key"),
            valid_until_ts: u64::try_from(sent + offset).expect("a time"),
        };
        let known = KnownKeys([(key.id().to_string(), record)].into());
        let known = BTreeMap::from([(server_name!("a.example").to_owned(), known)]);
        (event, known)
    }

    #[test]
    fn the_key_of_an_event_must_be_valid_when_it_was_sent_since_room_version_5() {
        for version in versions::SUPPORTED {
            let (event, known) = event_and_keys(&version, 0);
            let keys = keys_for(&event, &known);
            event.verify(&keys).expect("the key was valid");
            let (event, known) = event_and_keys(&version, -1);
            let keys = keys_for(&event, &known);
            let is_enforced = event.enforces_key_validity();
            assert_eq!(event.verify(&keys).is_err(), is_enforced, "{version}");
        }
        let enforced = [RoomVersionId::V4, RoomVersionId::V5]
            .map(|version| event_and_keys(&version, 0).0.enforces_key_validity());
        assert_eq!(enforced, [false, true]);
    }

    #[test]
    fn few_of_the_keys_that_an_event_names_are_looked_for() {
        let history = History::public(&RoomVersionId::V11, "@alice:a.example");
        let mut event: Value = serde_json::from_slice(&history.events[1].json).expect("JSON");
        let signatures = &mut event["signatures"]["a.example"];
        for number in 0..100 {
            signatures[format!("ed25519:{number}")] = "signature".into();
        }
        let event = Incoming::parse(event.to_string().as_bytes(), history.rules);
        let wanted = wanted_by(&[event.expect("an event")]);
        assert_eq!(wanted[server_name!("a.example")].len(), MAX_SIGNATURES);
    }
}
