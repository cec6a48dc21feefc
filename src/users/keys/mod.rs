//! Keys of users' devices, and keys with which users sign keys: handed in by clients, for others to
//! encrypt to and to trust.
//!
//! - Owns the tables `device_keys`, `one_time_keys`, `claimed_keys`, `fallback_keys`, `one_time_key_changes`,
//!   `cross_signing_keys`, `key_signatures` and `user_signature_log`.
//! - A key is kept as it came, with every field: its signatures are over all of them.
//! - What changes a key that others see is noted in [`super::device_lists`], in the same job.
//!
//! Source: client-server API, "End-to-End Encryption".

pub mod cross_signing;
pub mod device_keys;
pub mod one_time_keys;
pub mod signatures;

use std::fmt;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId, signatures::verify_json};

use super::{Error, device_lists};
use crate::store::{self, Tx, UserNum};

/// Removes the keys with which `user` signs, and what they have signed of others: the user is gone.
///
/// # Errors
/// If the tables cannot be written.
pub fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    cross_signing::remove_all(tx, user)?;
    signatures::remove_all(tx, user)?;
    device_lists::cross_signing_keys_changed(tx, user)
}

/// How long a key can be with everything around it, in bytes.
const LONGEST: usize = 32 * 1024;

/// What a client hands in as a key: an object of reasonable size.
fn parse(json: &str) -> Result<CanonicalJsonObject, Error> {
    if json.len() > LONGEST {
        return Err(Error::TooLarge("a key may have at most 32 KiB"));
    }
    let object = serde_json::from_str::<CanonicalJsonObject>(json);
    let mut object = object.map_err(|_| Error::BadJson("a key is an object of canonical JSON"))?;
    object.remove("unsigned");
    Ok(object)
}

/// A public key as the row of `table` at `key` holds it.
fn stored(
    json: &str,
    table: &'static str,
    key: impl fmt::Debug,
) -> Result<CanonicalJsonObject, store::Error> {
    serde_json::from_str(json).map_err(|_| store::Error::corrupt(table, key, "not a JSON object"))
}

fn text(object: &CanonicalJsonObject) -> Result<String, store::Error> {
    serde_json::to_string(object).map_err(|_| store::Error::NotSerializable("a public key"))
}

fn text_of<'o>(object: &'o CanonicalJsonObject, field: &str) -> Option<&'o str> {
    object.get(field).and_then(CanonicalJsonValue::as_str)
}

/// The public keys of an object, by their ids.
fn public_keys(object: &CanonicalJsonObject) -> impl Iterator<Item = (&str, &str)> {
    let keys = object.get("keys").and_then(CanonicalJsonValue::as_object);
    let keys = keys.into_iter().flatten();
    keys.filter_map(|(id, key)| Some((id.as_str(), key.as_str()?)))
}

/// The signatures of `user` on `object`, by the ids of their keys.
fn signatures_of<'o>(
    object: &'o CanonicalJsonObject,
    user: &str,
) -> impl Iterator<Item = (&'o str, &'o str)> {
    let signatures = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object);
    let of_user = signatures.and_then(|signatures| signatures.get(user)?.as_object());
    let of_user = of_user.into_iter().flatten();
    of_user.filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
}

/// The signature of `user` on `object` by the key `id`.
fn signature<'o>(object: &'o CanonicalJsonObject, user: &UserId, id: &str) -> Option<&'o str> {
    let mut signatures = signatures_of(object, user.as_str());
    signatures.find_map(|(by, signature)| (by == id).then_some(signature))
}

/// Whether `user` has signed `object` with the key `id`, which is `public`.
fn is_signed(object: &CanonicalJsonObject, user: &UserId, (id, public): (&str, &str)) -> bool {
    let Some(signature) = signature(object, user, id) else {
        return false;
    };
    let Ok(public) = ruma::serde::Base64::parse(public) else {
        return false;
    };
    // Whatever else has signed it does not matter here.
    let mut object = object.clone();
    object.remove("signatures");
    put_signature(&mut object, user.as_str(), (id, signature.to_owned()));
    let keys = [(id.to_owned(), public)].into();
    let keys = [(user.to_string(), keys)].into();
    verify_json(&keys, &object).is_ok()
}

/// Adds a signature to those of `object`.
fn put_signature(object: &mut CanonicalJsonObject, user: &str, (id, signature): (&str, String)) {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = object.entry("signatures".to_owned()).or_insert_with(empty);
    if let CanonicalJsonValue::Object(signatures) = signatures {
        let of_user = signatures.entry(user.to_owned()).or_insert_with(empty);
        if let CanonicalJsonValue::Object(of_user) = of_user {
            of_user.insert(id.to_owned(), CanonicalJsonValue::String(signature));
        }
    }
}

/// Whether two keys are the same but for their signatures.
fn is_same(one: &CanonicalJsonObject, other: &CanonicalJsonObject) -> bool {
    let signed = |object: &CanonicalJsonObject| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    signed(one) == signed(other)
}
