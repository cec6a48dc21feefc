//! Signatures that users add to keys: to those of their own devices, to their own master key, and to
//! other users' master keys. The last are shown to nobody but who made them.
//!
//! Source: client-server API, "Signature visibility" in "Cross-signing", `POST /keys/signatures/upload`.

use std::collections::BTreeSet;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, UserId};

use super::{
    Error,
    cross_signing::{self, Usage},
    device_keys, is_same, is_signed, parse, public_keys, put_signature, signature, stored, text,
    text_of,
};
use crate::{
    store::{self, Effect, Position, Reader, Rows, Tx, UserNum},
    users::{device_lists, num_of, remote_devices},
};

/// How many keys of others a user can have signed.
const MOST: usize = 10_000;

/// Who signs.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The number.
    pub user: UserNum,
    /// The user id.
    pub id: ruma::OwnedUserId,
}

/// Adds the signatures of `signer` that are on `json`, which is the key `key` of `of`: a device's id,
/// or a public key. Where that cannot be, nothing is written but after a failure of the store.
///
/// # Errors
/// [`Error::InvalidSignature`] if it is not signed, or not by a key that may; [`Error::NotFound`] if
/// there is no such key here; [`Error::InvalidParam`] if it is another than the one here;
/// [`Error::BadJson`]; [`Error::TooLarge`].
pub fn add(tx: &Tx, signer: &Signer, (of, key): (&UserId, &str), json: &str) -> Result<(), Error> {
    let signed = parse(json)?;
    if text_of(&signed, "user_id") != Some(of.as_str()) {
        return Err(Error::InvalidParam("this is the key of another user"));
    }
    if *of != signer.id {
        return sign_other(tx, signer, of, key, &signed);
    }
    match text_of(&signed, "device_id") {
        Some(device) if device == key => sign_device(tx, signer, key, &signed),
        Some(_) => Err(Error::InvalidParam("this is the key of another device")),
        None => sign_master(tx, signer, key, &signed),
    }
}

fn sign_device(
    tx: &Tx,
    signer: &Signer,
    device: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    let mut keys = device_keys::of_device(tx, signer.user, device.into())?.ok_or(NO_KEY)?;
    if !is_same(&keys, signed) {
        return Err(ANOTHER);
    }
    let by = public(tx, signer.user, Usage::SelfSigning)?;
    let (id, signature) = check(signed, &signer.id, &by)?;
    put_signature(&mut keys, signer.id.as_str(), (id, signature));
    Ok(device_keys::put_signed(
        tx,
        (signer.user, device.into()),
        &keys,
    )?)
}

/// A user's own devices sign the master key.
fn sign_master(
    tx: &Tx,
    signer: &Signer,
    key: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    check_id(key, signed)?;
    let mut master = cross_signing::load(tx, signer.user, Usage::Master)?.ok_or(NO_KEY)?;
    if !is_same(&master, signed) {
        return Err(ANOTHER);
    }
    let mut added = false;
    for (_, keys) in device_keys::of_user(tx, signer.user)? {
        for by in public_keys(&keys) {
            if is_signed(signed, &signer.id, by)
                && let Some(signature) = signature(signed, &signer.id, by.0)
            {
                put_signature(
                    &mut master,
                    signer.id.as_str(),
                    (by.0, signature.to_owned()),
                );
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

fn sign_other(
    tx: &Tx,
    signer: &Signer,
    of: &UserId,
    key: &str,
    signed: &CanonicalJsonObject,
) -> Result<(), Error> {
    check_id(key, signed)?;
    match master_of(tx, signer, of)? {
        Some(master) if !is_same(&master, signed) => return Err(ANOTHER),
        Some(_) => {}
        None if of.server_name() == signer.id.server_name() => return Err(NO_KEY),
        // Where nothing is known of the user, the signature is all that is kept: it is shown with the key
        // that it is of.
        None => {}
    }
    let by = public(tx, signer.user, Usage::UserSigning)?;
    let (id, signature) = check(signed, &signer.id, &by)?;
    let of = tx.user_num(of.as_str())?;
    let mut table = tx.key_signatures()?;
    let of_signer = (signer.user, UserNum::MIN, "")..(UserNum(signer.user.0 + 1), UserNum::MIN, "");
    let is_new = !table.has((signer.user, of, key))?;
    if is_new && table.range(of_signer)?.count() >= MOST {
        return Err(Error::TooMany("a user can have signed at most 10,000 keys"));
    }
    let json = text(&[(id.to_owned(), signature.into())].into())?;
    table.insert((signer.user, of, key), json.as_str())?;
    drop(table);
    Ok(log(tx, signer.user, of)?)
}

/// A key that signs is called by its public key.
fn check_id(key: &str, signed: &CanonicalJsonObject) -> Result<(), Error> {
    if public_keys(signed).any(|(_, public)| public == key) {
        Ok(())
    } else {
        Err(Error::InvalidParam("the key has another id"))
    }
}

/// The master key of another user than the signer, if it is known here.
fn master_of(
    tx: &Tx,
    signer: &Signer,
    of: &UserId,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    if of.server_name() != signer.id.server_name() {
        return remote_master(tx, of);
    }
    match num_of(tx, of)? {
        Some(of) => cross_signing::load(tx, of, Usage::Master),
        None => Ok(None),
    }
}

/// Removes what `device` has signed of its user's master key: the device ends.
pub(in crate::users) fn remove_of_device(
    tx: &Tx,
    user: UserNum,
    device: &DeviceId,
) -> Result<(), store::Error> {
    let Some(mut master) = cross_signing::load(tx, user, Usage::Master)? else {
        return Ok(());
    };
    let signatures = match master.get_mut("signatures") {
        Some(CanonicalJsonValue::Object(signatures)) => signatures,
        _ => return Ok(()),
    };
    let mut gone = false;
    for of_user in signatures.values_mut() {
        if let CanonicalJsonValue::Object(of_user) = of_user {
            gone |= of_user.remove(&format!("ed25519:{device}")).is_some();
        }
    }
    if gone {
        cross_signing::put(tx, user, Usage::Master, &master)?;
        device_lists::cross_signing_keys_changed(tx, user)?;
    }
    Ok(())
}

/// Removes what `signer` has signed of others.
pub(super) fn remove_all(tx: &Tx, signer: UserNum) -> Result<(), store::Error> {
    let signed = (signer, UserNum::MIN, "")..(UserNum(signer.0 + 1), UserNum::MIN, "");
    tx.key_signatures()?.remove_in(signed, |_, _| true)?;
    let log = (signer, Position::MIN)..=(signer, Position::MAX);
    tx.user_signature_log()?.remove_in(log, |_, _| true)
}

/// The master key of a user of another server, if the list of the user's devices is kept and followed.
fn remote_master(tx: &Tx, of: &UserId) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let list = remote_devices::load(tx, of)?.filter(|list| !list.is_stale);
    let master = list.and_then(|list| list.master_key);
    Ok(master.and_then(|master| parse(master.json().get()).ok()))
}

/// The signer's other devices, and nobody else, are to look at the keys of `of` again.
fn log(tx: &Tx, signer: UserNum, of: UserNum) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    let mut log = tx.user_signature_log()?;
    let mut before = Vec::new();
    for row in log.range((signer, Position::MIN)..=(signer, Position::MAX))? {
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

/// Of whose keys `signer` signed one after `after`, up to and including `upto`.
///
/// # Errors
/// If the table cannot be read.
pub fn signed_users_between(
    r: &impl Reader,
    signer: UserNum,
    (after, upto): (Position, Position),
) -> Result<BTreeSet<UserNum>, store::Error> {
    let mut signed = BTreeSet::new();
    if after < upto {
        let log = r.user_signature_log()?;
        for row in log.range((signer, Position(after.0 + 1))..=(signer, upto))? {
            signed.insert(row?.1.value());
        }
    }
    Ok(signed)
}

/// Whether `signer` signed a key of anybody else after `after`, up to and including `upto`.
///
/// # Errors
/// If the table cannot be read.
pub fn has_signed_between(
    r: &impl Reader,
    signer: UserNum,
    (after, upto): (Position, Position),
) -> Result<bool, store::Error> {
    if after >= upto {
        return Ok(false);
    }
    let span = (signer, Position(after.0 + 1))..=(signer, upto);
    Ok(r.user_signature_log()?
        .range(span)?
        .next()
        .transpose()?
        .is_some())
}

const NO_KEY: Error = Error::NotFound("there is no such key");
const ANOTHER: Error = Error::InvalidParam("the key that is here is another");
const NOT_SIGNED: Error =
    Error::InvalidSignature("it is not validly signed by a key that may sign it");

/// The id and the public key of a user's key.
fn public(r: &impl Reader, user: UserNum, usage: Usage) -> Result<(String, String), Error> {
    let key = cross_signing::load(r, user, usage)?.ok_or(NOT_SIGNED)?;
    let (id, public) = public_keys(&key).next().ok_or(NOT_SIGNED)?;
    Ok((id.to_owned(), public.to_owned()))
}

/// The signature on `signed` by that key, if it is right.
fn check<'b>(
    signed: &CanonicalJsonObject,
    user: &UserId,
    (id, public): &'b (String, String),
) -> Result<(&'b str, String), Error> {
    match signature(signed, user, id) {
        Some(signature) if is_signed(signed, user, (id, public)) => Ok((id, signature.to_owned())),
        _ => Err(NOT_SIGNED),
    }
}

/// Adds to `key`, a master key of `of`, what `viewer` has signed of it.
///
/// # Errors
/// If the tables cannot be read.
pub fn add_viewer_signatures(
    r: &impl Reader,
    viewer: &Signer,
    of: UserNum,
    key: &mut CanonicalJsonObject,
) -> Result<(), store::Error> {
    let mut found = CanonicalJsonObject::new();
    for (_, public) in public_keys(key) {
        if let Some(row) = r.key_signatures()?.get((viewer.user, of, public))? {
            let key = (viewer.user, of, public);
            found.extend(stored(row.value(), "key_signatures", key)?);
        }
    }
    for (id, signature) in found {
        if let Some(signature) = signature.as_str() {
            put_signature(key, viewer.id.as_str(), (&id, signature.to_owned()));
        }
    }
    Ok(())
}
