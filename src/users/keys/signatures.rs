//! Uploaded signatures: on the user's devices, on the user's master key, and on the master keys of other
//! users. The last are visible to the user who made them only.
//!
//! Source: client-server API, "Signature visibility" in "Cross-signing", `POST /keys/signatures/upload`.

use std::collections::BTreeSet;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedUserId, UserId};

use super::{
    cross_signing::{self, Usage},
    device_keys,
    signed_json::{
        PublicKey, is_same, parse, parse_stored, public_keys, put_signature, str_field, to_text,
        verified_signature,
    },
};
use crate::{
    store::{self, Effect, Position, Reader, Rows, Tx, UserNum},
    users::{Error, device_lists, num_of, remote_devices},
};

/// Keys of other users that one user can have signed.
const MAX_SIGNED_KEYS: usize = 10_000;

const NO_KEY: Error = Error::NotFound("there is no such key");
const DIFFERENT_KEY: Error = Error::InvalidParam("the stored key differs from the signed one");
const NOT_SIGNED: Error =
    Error::InvalidSignature("the key has no valid signature of a key that may sign it");

/// The user who signs.
#[derive(Clone, Debug)]
pub struct Signer {
    pub user: UserNum,
    pub id: OwnedUserId,
}

/// Adds the signatures of `signer` on `json` to the key `key` of `of`: a device id, or the public key of a
/// cross-signing key. An error other than [`Error::Store`] means that nothing was written.
///
/// # Errors
/// [`Error::InvalidSignature`] if no key that may has signed it; [`Error::NotFound`]; [`Error::InvalidParam`]
/// if the stored key is another; [`Error::BadJson`]; [`Error::TooLarge`]; [`Error::TooMany`].
pub fn add(tx: &Tx, signer: &Signer, of: &UserId, key: &str, json: &str) -> Result<(), Error> {
    let signed = parse(json)?;
    if str_field(&signed, "user_id") != Some(of.as_str()) {
        return Err(Error::InvalidParam(
            "`user_id` of the key is another user's",
        ));
    }
    if *of != signer.id {
        return sign_other(tx, signer, of, key, &signed);
    }
    match str_field(&signed, "device_id") {
        Some(device) if device == key => sign_device(tx, signer, key, &signed),
        Some(_) => Err(Error::InvalidParam(
            "`device_id` of the key is another device's",
        )),
        None => sign_master(tx, signer, key, &signed),
    }
}

/// The self-signing key signs a device of the user.
fn sign_device(
    tx: &Tx,
    signer: &Signer,
    device: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    let mut keys = device_keys::of_device(tx, signer.user, device.into())?.ok_or(NO_KEY)?;
    if !is_same(&keys, signed) {
        return Err(DIFFERENT_KEY);
    }
    let (id, signature) = signature_by(tx, signer, Usage::SelfSigning, signed)?;
    put_signature(&mut keys, signer.id.as_str(), &id, signature);
    Ok(device_keys::put_row(tx, signer.user, device.into(), &keys)?)
}

/// Devices of the user sign the user's master key.
fn sign_master(
    tx: &Tx,
    signer: &Signer,
    key: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    check_id(key, signed)?;
    let mut master = cross_signing::load(tx, signer.user, Usage::Master)?.ok_or(NO_KEY)?;
    if !is_same(&master, signed) {
        return Err(DIFFERENT_KEY);
    }
    let mut added = false;
    for (_, keys) in device_keys::of_user(tx, signer.user)? {
        for by in public_keys(&keys) {
            if let Some(signature) = verified_signature(signed, &signer.id, by) {
                put_signature(&mut master, signer.id.as_str(), by.id, signature.to_owned());
                added = true;
            }
        }
    }
    if !added {
        return Err(NOT_SIGNED);
    }
    cross_signing::put(tx, signer.user, Usage::Master, &master)?;
    Ok(device_lists::cross_signing_keys_changed(tx, signer.user)?)
}

/// The user-signing key signs the master key of another user.
fn sign_other(
    tx: &Tx,
    signer: &Signer,
    of: &UserId,
    key: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    check_id(key, signed)?;
    match master_of(tx, signer, of)? {
        Some(master) if !is_same(&master, signed) => return Err(DIFFERENT_KEY),
        Some(_) => {}
        None if of.server_name() == signer.id.server_name() => return Err(NO_KEY),
        // The key of a remote user whose device list is not tracked cannot be compared. The signature is
        // returned only with the key that it is of.
        None => {}
    }
    let (id, signature) = signature_by(tx, signer, Usage::UserSigning, signed)?;
    let of = tx.user_num(of.as_str())?;
    let mut table = tx.key_signatures()?;
    let is_new = !table.has((signer.user, of, key))?;
    if is_new && table.prefix(signer.user)?.count() >= MAX_SIGNED_KEYS {
        return Err(Error::TooMany("a user can have signed at most 10,000 keys"));
    }
    let json = to_text(&[(id, signature.into())].into())?;
    table.insert((signer.user, of, key), json.as_str())?;
    drop(table);
    Ok(log(tx, signer.user, of)?)
}

/// Checks that `key` is the public key of the cross-signing key `signed`.
fn check_id(key: &str, signed: &CanonicalJsonObject) -> Result<(), Error> {
    if public_keys(signed).any(|public| public.key == key) {
        Ok(())
    } else {
        Err(Error::InvalidParam(
            "`keys` of the key lacks the id under which it is uploaded",
        ))
    }
}

/// The master key of another user than the signer, if this server knows it.
fn master_of(
    tx: &Tx,
    signer: &Signer,
    of: &UserId,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    if of.server_name() != signer.id.server_name() {
        let list = remote_devices::load(tx, of)?.filter(|list| !list.is_stale);
        let master = list.and_then(|list| list.master_key);
        return Ok(master.and_then(|master| parse(&master).ok()));
    }
    match num_of(tx, of)? {
        Some(of) => cross_signing::load(tx, of, Usage::Master),
        None => Ok(None),
    }
}

/// The signature on `signed` by the signer's key for `usage`, and the id of that key.
fn signature_by(
    r: &impl Reader,
    signer: &Signer,
    usage: Usage,
    signed: &CanonicalJsonObject,
) -> Result<(String, String), Error> {
    let key = cross_signing::load(r, signer.user, usage)?.ok_or(NOT_SIGNED)?;
    let by: PublicKey<'_> = public_keys(&key).next().ok_or(NOT_SIGNED)?;
    let signature = verified_signature(signed, &signer.id, by).ok_or(NOT_SIGNED)?;
    Ok((by.id.to_owned(), signature.to_owned()))
}

/// Removes the signature of `device` from its user's master key.
pub(in crate::users) fn remove_of_device(
    tx: &Tx,
    user: UserNum,
    device: &DeviceId,
) -> Result<(), store::Error> {
    let Some(mut master) = cross_signing::load(tx, user, Usage::Master)? else {
        return Ok(());
    };
    let Some(CanonicalJsonValue::Object(signatures)) = master.get_mut("signatures") else {
        return Ok(());
    };
    let mut is_removed = false;
    for of_user in signatures.values_mut() {
        if let CanonicalJsonValue::Object(of_user) = of_user {
            is_removed |= of_user.remove(&format!("ed25519:{device}")).is_some();
        }
    }
    if is_removed {
        cross_signing::put(tx, user, Usage::Master, &master)?;
        device_lists::cross_signing_keys_changed(tx, user)?;
    }
    Ok(())
}

/// Removes the signatures of `signer` on the keys of others.
pub(super) fn remove_all(tx: &Tx, signer: UserNum) -> Result<(), store::Error> {
    tx.key_signatures()?.remove_prefix(signer)?;
    tx.user_signature_log()?.remove_prefix(signer)
}

/// Logs that the signer's devices, and nobody else's, have to query the keys of `of` again.
fn log(tx: &Tx, signer: UserNum, of: UserNum) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    let mut log = tx.user_signature_log()?;
    let mut before = Vec::new();
    for row in log.prefix(signer)? {
        let (key, signed) = row?;
        if signed.value() == of {
            before.push(key.value());
        }
    }
    for key in before {
        log.remove(key)?;
    }
    log.insert((signer, position), of)?;
    tx.effect(Effect::UserChanged(signer, position));
    Ok(())
}

/// The users of whose keys `signer` signed one after `after`, up to and including `upto`.
pub fn signed_users_between(
    r: &impl Reader,
    signer: UserNum,
    after: Position,
    upto: Position,
) -> Result<BTreeSet<UserNum>, store::Error> {
    let mut signed = BTreeSet::new();
    if after < upto {
        let log = r.user_signature_log()?;
        for row in log.prefix_range(signer, Position(after.0 + 1)..=upto)? {
            signed.insert(row?.1.value());
        }
    }
    Ok(signed)
}

/// Whether [`signed_users_between`] returns any.
pub fn has_signed_between(
    r: &impl Reader,
    signer: UserNum,
    after: Position,
    upto: Position,
) -> Result<bool, store::Error> {
    if after >= upto {
        return Ok(false);
    }
    let log = r.user_signature_log()?;
    let mut rows = log.prefix_range(signer, Position(after.0 + 1)..=upto)?;
    Ok(rows.next().transpose()?.is_some())
}

/// Adds to `key`, the master key of `of`, the signatures that `viewer` has made on it.
pub fn add_viewer_signatures(
    r: &impl Reader,
    viewer: &Signer,
    of: UserNum,
    key: &mut CanonicalJsonObject,
) -> Result<(), store::Error> {
    let mut found = CanonicalJsonObject::new();
    for public in public_keys(key) {
        let row_key = (viewer.user, of, public.key);
        if let Some(row) = r.key_signatures()?.get(row_key)? {
            found.extend(parse_stored(row.value(), "key_signatures", row_key)?);
        }
    }
    for (id, signature) in found {
        if let Some(signature) = signature.as_str() {
            put_signature(key, viewer.id.as_str(), &id, signature.to_owned());
        }
    }
    Ok(())
}
