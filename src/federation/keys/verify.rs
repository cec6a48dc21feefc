//! Checking of signatures: of requests, and of events.

use std::collections::BTreeMap;

use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    api::federation::authentication::XMatrix,
    signatures::{PublicKeyMap, PublicKeySet, verify_canonical_json_bytes},
};
use serde_json::{json, value::RawValue};

use super::{
    fetch::Keys,
    known::{KnownKeys, WantedKey},
};
use crate::{
    pool::Kind,
    protocol::{
        depth::is_too_deep,
        receive::{Incoming, ReceiveError, Received},
    },
    rooms,
};

/// More events are checked on the pool.
const MAX_IN_PLACE: usize = 4;
/// How many events are checked at once on the pool.
const POOL_BATCH: usize = 100;
/// How many signatures of one server on an event are looked at.
const MAX_SIGNATURES: usize = 8;

impl Keys {
    /// Whether `request` is signed by the origin that `signature` names.
    ///
    /// Source: server-server API, "Request authentication".
    pub async fn is_signed(
        &self,
        signature: &XMatrix,
        request: &http::Request<&[u8]>,
    ) -> Result<bool, rooms::Error> {
        let now = self.0.clock.now_ms();
        let wanted = [WantedKey {
            id: signature.key.to_string(),
            valid_at_ts: now,
        }];
        let enough = |known: &KnownKeys| known.satisfies(&wanted);
        let known = self.of_server(&signature.origin, enough).await?;
        let keys = known.valid_at(Some(now));
        let name = self.0.local.server_name();
        if is_too_deep(request.body()) {
            return Ok(is_deep_request_signed(signature, request, name, &keys));
        }
        let keys = PublicKeyMap::from([(signature.origin.to_string(), keys)]);
        Ok(signature.verify_http_request(request, name, &keys).is_ok())
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

    /// The keys of several servers, which are asked at once.
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

/// Checks the signature of a request whose body ruma cannot parse: a PDU in a transaction may be nested to
/// any depth, and must not stop the others. The body must be canonical JSON, as other servers send it.
fn is_deep_request_signed(
    signature: &XMatrix,
    request: &http::Request<&[u8]>,
    destination: &ServerName,
    keys: &PublicKeySet,
) -> bool {
    let is_for_another = signature
        .destination
        .as_deref()
        .is_some_and(|other| other != destination);
    // This parser has no limit of depth.
    let body = serde_json::from_slice::<&RawValue>(request.body());
    let (Ok(body), Some(key)) = (body, keys.get(signature.key.as_str())) else {
        return false;
    };
    let uri = request
        .uri()
        .path_and_query()
        .map_or("/", |uri| uri.as_str());
    let signed = format!(
        r#"{{"content":{body},"destination":{},"method":{},"origin":{},"uri":{}}}"#,
        json!(destination),
        json!(request.method().as_str()),
        json!(signature.origin),
        json!(uri),
    );
    let algorithm = SigningKeyAlgorithm::Ed25519;
    let (key, signature) = (key.as_bytes(), signature.sig.as_bytes());
    !is_for_another
        && verify_canonical_json_bytes(&algorithm, key, signature, signed.as_bytes()).is_ok()
}

/// The keys with which `events` claim to be signed.
fn wanted_by(events: &[Incoming]) -> BTreeMap<OwnedServerName, Vec<WantedKey>> {
    let mut wanted: BTreeMap<OwnedServerName, Vec<WantedKey>> = BTreeMap::new();
    for event in events {
        let valid_at_ts = valid_at_ts(event).unwrap_or(0);
        for server in event.signers().unwrap_or_default() {
            let ids = event.key_ids(server.as_str()).take(MAX_SIGNATURES);
            let keys: Vec<_> = ids
                .map(|id| WantedKey {
                    id: id.to_owned(),
                    valid_at_ts,
                })
                .collect();
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
    use ruma::{
        api::federation::authentication::XMatrix,
        serde::Base64,
        server_name,
        signatures::{KeyPair, PublicKeySet},
    };

    use super::is_deep_request_signed;
    use crate::protocol::ServerKey;

    #[test]
    fn a_request_with_a_deep_body_is_accepted_only_with_its_signature() {
        let (origin, destination) = (server_name!("a.example"), server_name!("b.example"));
        let key = ServerKey::generate();
        let keys = PublicKeySet::from([(key.id().to_string(), key.public_key())]);
        let body = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let uri = "/_matrix/federation/v1/send/1";
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
        let is_signed = |body: &str, uri: &str, destination| {
            let request = http::Request::put(uri).body(body.as_bytes()).unwrap();
            is_deep_request_signed(&signature, &request, destination, &keys)
        };
        assert!(is_signed(&body, uri, destination));
        assert!(!is_signed(&format!("[{body}]"), uri, destination));
        assert!(!is_signed(&body[1..], uri, destination));
        assert!(!is_signed(
            &body,
            "/_matrix/federation/v1/send/2",
            destination
        ));
        assert!(!is_signed(&body, uri, origin));
    }
}
