//! Signing and checking of JSON objects whose numbers need not be canonical
//! ([`canonical_text`](super::canonical_text)).
//!
//! Source: appendices, "Signing JSON".

use std::collections::BTreeMap;

use ruma::{
    ServerName, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::{KeyPair, PublicKeySet, verify_canonical_json_bytes},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    canonical_text::{CanonicalTextError, canonical_text},
    server_key::ServerKey,
};

/// A JSON object with signatures.
pub struct SignedObject {
    text: String,
    signatures: BTreeMap<String, Box<RawValue>>,
}

impl SignedObject {
    /// Parses an object. `unsigned` is dropped.
    pub fn parse(json: &[u8]) -> Result<Self, CanonicalTextError> {
        let text = canonical_text(json)?;
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(&text)?;
        fields.remove("unsigned");
        let signatures = fields.remove("signatures");
        let signatures = signatures.map(|json| serde_json::from_str(json.get()));
        Ok(Self {
            text: serde_json::to_string(&fields)?,
            signatures: signatures.transpose()?.unwrap_or_default(),
        })
    }

    /// What is signed: all fields but `signatures` and `unsigned`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `signer` has signed it with one of `keys`.
    pub fn is_signed_by(&self, signer: &ServerName, keys: &PublicKeySet) -> bool {
        let signatures = self.signatures.get(signer.as_str());
        let signatures =
            signatures.and_then(|json| serde_json::from_str::<BTreeMap<_, _>>(json.get()).ok());
        let signatures = signatures.into_iter().flatten();
        let mut signatures =
            signatures.filter_map(|(id, json): (String, &RawValue)| Some((keys.get(&id)?, json)));
        signatures.any(|(key, json)| {
            let signature = serde_json::from_str::<Base64>(json.get());
            signature.is_ok_and(|signature| is_signature(&signature, key, &self.text))
        })
    }

    /// Sets the signature of `signer`.
    pub fn sign(&mut self, signer: &ServerName, key: &ServerKey) -> Result<(), serde_json::Error> {
        let (id, signature) = key.sign(self.text.as_bytes()).into_parts();
        let signature = Base64::<Standard, _>::new(signature);
        let of_signer = to_raw_value(&BTreeMap::from([(id.to_string(), signature)]))?;
        self.signatures.insert(signer.to_string(), of_signer);
        Ok(())
    }

    /// The object with its signatures.
    pub fn to_json(&self) -> Result<Box<RawValue>, serde_json::Error> {
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(&self.text)?;
        let signatures = to_raw_value(&self.signatures)?;
        fields.insert("signatures".to_owned(), &signatures);
        to_raw_value(&fields)
    }
}

/// Whether `signature` is that of `text` by an Ed25519 key.
pub fn is_signature(signature: &Base64, key: &Base64, text: &str) -> bool {
    let algorithm = SigningKeyAlgorithm::Ed25519;
    let (key, signature) = (key.as_bytes(), signature.as_bytes());
    verify_canonical_json_bytes(&algorithm, key, signature, text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use ruma::{
        server_name,
        signatures::{PublicKeyMap, PublicKeySet, verify_json},
    };

    use super::SignedObject;
    use crate::protocol::server_key::{ServerKey, tests::spec_key};

    fn parse(json: &str) -> SignedObject {
        SignedObject::parse(json.as_bytes()).unwrap()
    }

    fn keys(key: &ServerKey) -> PublicKeySet {
        [(key.id().to_string(), key.public_key())].into()
    }

    /// Appendices, "Cryptographic Test Vectors", "JSON Signing".
    #[test]
    fn objects_are_signed_as_in_the_test_vectors() {
        let mut object = parse(r#"{ "two": "Two", "one": 1, "unsigned": 0.5 }"#);
        object.sign(server_name!("domain"), &spec_key()).unwrap();
        let expected = "{\"one\":1,\"signatures\":{\"domain\":{\"ed25519:1\":\"\
            KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw\
            \"}},\"two\":\"Two\"}";
        let json = object.to_json().unwrap();
        assert_eq!(json.get(), expected);
        let keys = PublicKeyMap::from([("domain".to_owned(), keys(&spec_key()))]);
        verify_json(&keys, &serde_json::from_str(json.get()).unwrap()).unwrap();
    }

    #[test]
    fn an_object_with_any_numbers_is_checked_over_its_text() {
        let (key, other) = (ServerKey::generate(), ServerKey::generate());
        let (signer, another) = (server_name!("a.example"), server_name!("b.example"));
        let mut object = parse(r#"{"x": [0.50, 1e400, 9007199254740992], "b": {"d": 1, "c": 2}}"#);
        object.sign(signer, &key).unwrap();
        object.sign(another, &other).unwrap();
        let json = object.to_json().unwrap();
        let is_signed = |json: &str, signer, key| parse(json).is_signed_by(signer, &keys(key));
        assert!(is_signed(json.get(), signer, &key));
        assert!(is_signed(json.get(), another, &other));
        assert!(!is_signed(json.get(), another, &key));
        assert!(!is_signed(json.get(), signer, &other));
        assert!(!is_signed(&json.get().replace("0.50", "0.5"), signer, &key));
        assert!(!is_signed("{}", signer, &key));
        // What others have signed, and how, does not matter.
        let odd = json
            .get()
            .replace("\"b.example\":", "\"b.example\":0.5,\"c.example\":");
        assert!(is_signed(&odd, signer, &key));
        let odd = json
            .get()
            .replace("\"a.example\":{", "\"a.example\":{\"ed25519:x\":0.5,");
        assert!(is_signed(&odd, signer, &key));
    }

    #[test]
    fn of_equal_keys_the_value_that_is_signed_is_the_one_that_is_returned() {
        let (key, signer) = (ServerKey::generate(), server_name!("a.example"));
        let mut object = parse(r#"{"x":1}"#);
        object.sign(signer, &key).unwrap();
        let json = object.to_json().unwrap();
        let before = json.get().replacen('{', r#"{"x":2,"#, 1);
        assert!(parse(&before).is_signed_by(signer, &keys(&key)));
        assert_eq!(parse(&before).text(), r#"{"x":1}"#);
        let after = json.get().replace(r#""x":1"#, r#""x":1,"x":2"#);
        assert!(!parse(&after).is_signed_by(signer, &keys(&key)));
    }
}
