//! The server's own signing key. The caller stores its [`ServerKey::seed`] and [`ServerKey::version`].

use std::fmt;

use ed25519_compact::{KeyPair as Ed25519, Seed};
use ruma::{
    OwnedServerSigningKeyId, ServerSigningKeyVersion, SigningKeyAlgorithm, SigningKeyId,
    serde::{Base64, base64::Standard},
    signatures::{KeyPair, Signature},
};

/// An Ed25519 key with its id, `ed25519:xxxxxx`.
///
/// Source: server-server API, "Retrieving server keys"; appendices, "Signing JSON".
pub struct ServerKey {
    id: OwnedServerSigningKeyId,
    pair: Ed25519,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerKeyError {
    #[error("the seed of the signing key is not usable")]
    Seed,
    #[error("the version of the signing key may only have letters, digits and underscores")]
    Version,
}

impl ServerKey {
    /// A new random key. Its version is derived from its public key, so the ids of two keys practically
    /// never collide.
    pub fn generate() -> Self {
        let pair = Ed25519::generate();
        let version: String = base64(&*pair.pk)
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(6)
            .collect();
        Self {
            id: key_id(&version).expect("letters and digits"),
            pair,
        }
    }

    pub fn from_seed(seed: [u8; 32], version: &str) -> Result<Self, ServerKeyError> {
        let pair = Ed25519::try_from_seed(Seed::new(seed)).map_err(|_| ServerKeyError::Seed)?;
        Ok(Self {
            id: key_id(version)?,
            pair,
        })
    }

    /// The secret key.
    pub fn seed(&self) -> [u8; 32] {
        *self.pair.sk.seed()
    }

    /// The part of the id after `ed25519:`.
    pub fn version(&self) -> &str {
        self.id.key_name().as_str()
    }

    pub fn id(&self) -> &SigningKeyId<ServerSigningKeyVersion> {
        &self.id
    }

    pub fn public_key(&self) -> Base64 {
        Base64::new(self.pair.pk.to_vec())
    }
}

impl KeyPair for ServerKey {
    /// Deterministic: a transaction that runs again builds the same event again.
    fn sign(&self, message: &[u8]) -> Signature {
        Signature::new(
            SigningKeyId::from_parts(SigningKeyAlgorithm::Ed25519, self.version().into()),
            self.pair.sk.sign(message, None).to_vec(),
        )
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ServerKey").field(&self.id).finish()
    }
}

fn base64(bytes: &[u8]) -> String {
    Base64::<Standard, _>::new(bytes).encode()
}

fn key_id(version: &str) -> Result<OwnedServerSigningKeyId, ServerKeyError> {
    let version =
        <&ServerSigningKeyVersion>::try_from(version).map_err(|_| ServerKeyError::Version)?;
    Ok(SigningKeyId::from_parts(
        SigningKeyAlgorithm::Ed25519,
        version,
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use ruma::{
        CanonicalJsonObject,
        room_version_rules::RedactionRules,
        serde::{Base64, base64::Standard},
        signatures::{KeyPair, hash_and_sign_event, sign_json},
    };
    use serde_json::json;

    use super::{ServerKey, ServerKeyError};

    /// The key of the spec's test vectors.
    pub(crate) fn spec_key() -> ServerKey {
        let seed = Base64::<Standard>::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
        ServerKey::from_seed(seed.unwrap().into_inner().try_into().unwrap(), "1").unwrap()
    }

    fn object(value: serde_json::Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    /// Appendices, "Cryptographic Test Vectors", "JSON Signing".
    #[test]
    fn json_is_signed_as_in_the_test_vectors() {
        for (mut json, signature) in [
            (
                object(json!({})),
                "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
            ),
            (
                object(json!({ "one": 1, "two": "Two" })),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            sign_json("domain", &spec_key(), &mut json).unwrap();
            let expected = object(json!({ "domain": { "ed25519:1": signature } }));
            assert_eq!(json["signatures"], expected);
        }
    }

    /// Appendices, "Cryptographic Test Vectors", "Event Signing".
    #[test]
    fn events_are_hashed_and_signed_as_in_the_test_vectors() {
        for (event, hash, signature) in [
            (
                json!({
                    "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
                    "origin_server_ts": 1000000, "signatures": {}, "hashes": {}, "type": "X",
                    "content": {}, "prev_events": [], "auth_events": [], "depth": 3,
                    "unsigned": { "age_ts": 1000000 },
                }),
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                json!({
                    "content": { "body": "Here is the message content" }, "event_id": "$0:domain",
                    "origin": "domain", "origin_server_ts": 1000000, "type": "m.room.message",
                    "room_id": "!r:domain", "sender": "@u:domain", "signatures": {},
                    "unsigned": { "age_ts": 1000000 },
                }),
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ] {
            let mut event = object(event);
            hash_and_sign_event("domain", &spec_key(), &mut event, &RedactionRules::V1).unwrap();
            assert_eq!(event["hashes"], object(json!({ "sha256": hash })));
            let expected = object(json!({ "domain": { "ed25519:1": signature } }));
            assert_eq!(event["signatures"], expected);
        }
    }

    #[test]
    fn a_key_comes_back_from_its_seed_and_version() {
        let key = ServerKey::generate();
        let back = ServerKey::from_seed(key.seed(), key.version()).unwrap();
        assert_eq!(back.id(), key.id());
        assert_eq!(back.sign(b"message"), key.sign(b"message"));
        assert_eq!(back.public_key(), key.public_key());
    }

    #[test]
    fn new_keys_have_ids_of_their_own() {
        let (one, other) = (ServerKey::generate(), ServerKey::generate());
        assert_eq!(one.version().len(), 6);
        assert_ne!(one.id(), other.id());
        assert_ne!(one.seed(), other.seed());
    }

    #[test]
    fn a_bad_version_is_refused() {
        for version in ["", "a:b", "a-b"] {
            let refused = ServerKey::from_seed([1; 32], version).err();
            assert_eq!(refused, Some(ServerKeyError::Version), "{version}");
        }
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        assert_eq!(format!("{:?}", spec_key()), r#"ServerKey("ed25519:1")"#);
    }
}
