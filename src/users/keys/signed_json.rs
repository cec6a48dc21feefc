//! Keys as signed JSON objects.

use std::fmt;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId, serde::Base64, signatures::verify_json,
};

use crate::{store, users::Error};

/// Of a key, with its signatures and everything around it.
const MAX_KEY_BYTES: usize = 32 * 1024;

/// A public key of an object, and its id, such as `ed25519:DEVICEID`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PublicKey<'o> {
    pub(super) id: &'o str,
    pub(super) key: &'o str,
}

/// Parses an uploaded key.
pub(super) fn parse(json: &str) -> Result<CanonicalJsonObject, Error> {
    if json.len() > MAX_KEY_BYTES {
        return Err(Error::TooLarge("a key has at most 32 KiB"));
    }
    let object = serde_json::from_str::<CanonicalJsonObject>(json);
    let mut object = object.map_err(|_| Error::BadJson("a key is an object of canonical JSON"))?;
    object.remove("unsigned");
    Ok(object)
}

/// Parses the row of `table` at `key`.
pub(super) fn parse_stored(
    json: &str,
    table: &'static str,
    key: impl fmt::Debug,
) -> Result<CanonicalJsonObject, store::Error> {
    serde_json::from_str(json).map_err(|_| store::Error::corrupt(table, key, "not a JSON object"))
}

pub(super) fn to_text(object: &CanonicalJsonObject) -> Result<String, store::Error> {
    serde_json::to_string(object).map_err(|_| store::Error::NotSerializable("a public key"))
}

pub(super) fn str_field<'o>(object: &'o CanonicalJsonObject, field: &str) -> Option<&'o str> {
    object.get(field).and_then(CanonicalJsonValue::as_str)
}

/// Whether `value` has the shape of `signatures`: a map from users to maps from key ids to signatures.
pub(super) fn is_signatures(value: &CanonicalJsonValue) -> bool {
    let of_users = value.as_object();
    of_users.is_some_and(|of_users| of_users.values().all(is_map_of_strings))
}

pub(super) fn is_map_of_strings(value: &CanonicalJsonValue) -> bool {
    let map = value.as_object();
    map.is_some_and(|map| map.values().all(CanonicalJsonValue::is_string))
}

/// The entries of `keys`.
pub(super) fn public_keys(object: &CanonicalJsonObject) -> impl Iterator<Item = PublicKey<'_>> {
    let keys = object.get("keys").and_then(CanonicalJsonValue::as_object);
    let keys = keys.into_iter().flatten();
    keys.filter_map(|(id, key)| {
        Some(PublicKey {
            id,
            key: key.as_str()?,
        })
    })
}

/// The signatures of `user` on `object`: key id and signature.
pub(super) fn signatures_of<'o>(
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

/// The signature of `user` on `object` by the key `by`, if there is one and it verifies.
pub(super) fn verified_signature<'o>(
    object: &'o CanonicalJsonObject,
    user: &UserId,
    by: PublicKey<'_>,
) -> Option<&'o str> {
    let signature = signature(object, user, by.id)?;
    let public = Base64::parse(by.key).ok()?;
    // `verify_json` checks every signature; the others do not matter here.
    let mut signed = object.clone();
    signed.remove("signatures");
    put_signature(&mut signed, user.as_str(), by.id, signature.to_owned());
    let keys = [(by.id.to_owned(), public)].into();
    let keys = [(user.to_string(), keys)].into();
    verify_json(&keys, &signed).is_ok().then_some(signature)
}

pub(super) fn put_signature(
    object: &mut CanonicalJsonObject,
    user: &str,
    key_id: &str,
    signature: String,
) {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = object.entry("signatures".to_owned()).or_insert_with(empty);
    if let CanonicalJsonValue::Object(signatures) = signatures {
        let of_user = signatures.entry(user.to_owned()).or_insert_with(empty);
        if let CanonicalJsonValue::Object(of_user) = of_user {
            of_user.insert(key_id.to_owned(), CanonicalJsonValue::String(signature));
        }
    }
}

/// Whether two keys are equal except for their signatures.
pub(super) fn is_same(one: &CanonicalJsonObject, other: &CanonicalJsonObject) -> bool {
    let signed = |object: &CanonicalJsonObject| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    signed(one) == signed(other)
}
