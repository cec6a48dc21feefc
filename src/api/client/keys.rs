//! Keys of devices and users (client-server API, "End-to-End Encryption").

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId,
    api::{
        client::keys::{claim_keys, get_keys, upload_keys, upload_signatures, upload_signing_keys},
        error::ErrorKind,
    },
    encryption::CrossSigningKey,
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use super::uiaa::{self, Interactive, authenticate};
use crate::{
    api::{Api, Error, Session},
    federation,
    store::{Reader, Records, Tx, UserNum},
    users::{
        self,
        keys::{
            cross_signing::{self, Upload, Usage},
            devices, one_time,
            signatures::{self, Signer},
        },
    },
};

/// How many keys one request may ask for.
const MOST: usize = 10_000;

/// How long other servers are waited for if the client does not say, and at most.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(30);

/// `POST /_matrix/client/v3/keys/upload`
pub async fn upload_keys(
    api: Api,
    who: Session,
    request: upload_keys::v3::Request,
) -> Result<upload_keys::v3::Response, Error> {
    let device_keys = match &request.device_keys {
        Some(keys) => {
            let json = keys.json().get();
            Some(devices::check(json, (&who.user_id, &who.device_id))?)
        }
        None => None,
    };
    let raw = |keys: BTreeMap<_, Raw<_>>| -> one_time::Uploaded {
        let keys = keys.into_iter();
        keys.map(|(id, key): (ruma::OwnedOneTimeKeyId, Raw<_>)| (id.to_string(), key.into_json()))
            .collect()
    };
    let (once, fallback) = (raw(request.one_time_keys), raw(request.fallback_keys));
    one_time::check(&once)?;
    one_time::check(&fallback)?;
    let job = move |tx: &Tx| {
        if let Some(keys) = &device_keys {
            devices::put(tx, (who.user, &who.device_id), keys)?;
        }
        one_time::add(tx, who.device, &once)?;
        one_time::put_fallback(tx, who.device, &fallback)?;
        Ok::<_, users::Error>(one_time::left(tx, who.device)?)
    };
    let left = api.store.write(job).await?;
    let counts = left.counts.into_iter();
    Ok(upload_keys::v3::Response::new(
        counts
            .map(|(algorithm, count)| (algorithm.into(), ruma::UInt::new_saturating(count)))
            .collect(),
    ))
}

/// `POST /_matrix/client/v3/keys/query`
pub async fn get_keys(
    api: Api,
    who: Session,
    request: get_keys::v3::Request,
) -> Result<get_keys::v3::Response, Error> {
    if request.device_keys.len() > MOST {
        return Err(Error::too_large("too many users at once"));
    }
    let time = request.timeout.unwrap_or(PATIENCE).min(LONGEST);
    let viewer = Signer {
        user: who.user,
        id: who.user_id,
    };
    let (of_local, remote) = by_place(&api, request.device_keys);
    let mut response = of_local_users(&api, viewer.clone(), of_local).await?;
    let asked = remote.clone();
    for (server, answer) in api.federation.user_keys().query(remote, time).await {
        match answer {
            Ok(answer) => {
                let is_asked =
                    |user: &OwnedUserId| user.server_name() == server && asked.contains_key(user);
                let devices = answer.device_keys.into_iter();
                let devices = devices.filter(|(user, _)| is_asked(user));
                response.device_keys.extend(devices);
                for (user, master) in answer.master_keys {
                    if is_asked(&user) {
                        let master = as_seen_by(&api, &viewer, &user, master)?;
                        response.master_keys.insert(user, master);
                    }
                }
                let signing = answer.self_signing_keys.into_iter();
                let signing = signing.filter(|(user, _)| is_asked(user));
                response.self_signing_keys.extend(signing);
            }
            Err(error) => drop(
                response
                    .failures
                    .insert(server.to_string(), failure(&error)),
            ),
        }
    }
    Ok(response)
}

/// What is asked of users of this server, and of users of others.
fn by_place<T>(
    api: &Api,
    asked: BTreeMap<OwnedUserId, T>,
) -> (BTreeMap<OwnedUserId, T>, BTreeMap<OwnedUserId, T>) {
    asked.into_iter().partition(|(user, _)| api.local.has(user))
}

fn failure(error: &federation::Error) -> Value {
    let kind = error.kind().unwrap_or(&ErrorKind::Unknown);
    json!({ "errcode": kind.errcode().as_str(), "error": error.to_string() })
}

/// The master key of another server's user with what `viewer` has signed of it.
fn as_seen_by(
    api: &Api,
    viewer: &Signer,
    user: &OwnedUserId,
    master: Raw<CrossSigningKey>,
) -> Result<Raw<CrossSigningKey>, Error> {
    let Ok(mut key) = master.deserialize_as_unchecked::<CanonicalJsonObject>() else {
        return Ok(master);
    };
    api.store.read(|s| {
        if let Some(num) = users::num_of(s, user)? {
            signatures::show_to(s, viewer, num, &mut key)?;
        }
        raw(&key)
    })
}

/// What is asked of devices: of which users, and of which devices; none are all.
type Asked = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

async fn of_local_users(
    api: &Api,
    viewer: Signer,
    asked: Asked,
) -> Result<get_keys::v3::Response, Error> {
    let scan = api.store.scan("keys", move |s| {
        let mut response = get_keys::v3::Response::new();
        for (user_id, wanted) in &asked {
            let Some(user) = users::num_of(s, user_id)? else {
                continue;
            };
            let mut of_user = BTreeMap::new();
            for (device_id, mut keys) in devices::of_user(s, user)? {
                if wanted.is_empty() || wanted.contains(&device_id) {
                    let device = s.devices()?.load((user, device_id.as_str()))?;
                    let name = device.and_then(|device| device.display_name);
                    show_name(&mut keys, name);
                    of_user.insert(device_id, raw(&keys)?);
                }
            }
            response.device_keys.insert(user_id.clone(), of_user);
            show_signing_keys(s, &viewer, (user, user_id), &mut response)?;
        }
        Ok::<_, Error>(response)
    });
    scan.await
}

fn show_signing_keys(
    s: &impl Reader,
    viewer: &Signer,
    (user, user_id): (UserNum, &OwnedUserId),
    response: &mut get_keys::v3::Response,
) -> Result<(), Error> {
    if let Some(mut master) = cross_signing::of_user(s, user, Usage::Master)? {
        signatures::show_to(s, viewer, user, &mut master)?;
        response.master_keys.insert(user_id.clone(), raw(&master)?);
    }
    if let Some(key) = cross_signing::of_user(s, user, Usage::SelfSigning)? {
        response
            .self_signing_keys
            .insert(user_id.clone(), raw(&key)?);
    }
    // Whom users trust is nobody else's business.
    if user == viewer.user
        && let Some(key) = cross_signing::of_user(s, user, Usage::UserSigning)?
    {
        response
            .user_signing_keys
            .insert(user_id.clone(), raw(&key)?);
    }
    Ok(())
}

fn show_name(keys: &mut CanonicalJsonObject, name: Option<String>) {
    let mut unsigned = CanonicalJsonObject::new();
    if let Some(name) = name {
        unsigned.insert("device_display_name".to_owned(), name.into());
    }
    let unsigned = CanonicalJsonValue::Object(unsigned);
    keys.insert("unsigned".to_owned(), unsigned);
}

/// A key as answers have it.
pub(in crate::api) fn raw<T>(key: &CanonicalJsonObject) -> Result<Raw<T>, Error> {
    to_raw_value(key)
        .map(Raw::from_json)
        .map_err(|_| Error::Internal("a key that does not serialize".into()))
}

/// `POST /_matrix/client/v3/keys/claim`
pub async fn claim_keys(
    api: Api,
    _who: Session,
    request: claim_keys::v3::Request,
) -> Result<claim_keys::v3::Response, Error> {
    let time = request.timeout.unwrap_or(PATIENCE).min(LONGEST);
    let (of_local, remote) = by_place(&api, request.one_time_keys);
    let mut response = claim_keys::v3::Response::new(claim(&api, of_local).await?);
    let asked = remote.clone();
    for (server, answer) in api.federation.user_keys().claim(remote, time).await {
        match answer {
            Ok(answer) => {
                let given = answer.one_time_keys.into_iter();
                let given = given
                    .filter(|(user, _)| user.server_name() == server && asked.contains_key(user));
                response.one_time_keys.extend(given);
            }
            Err(error) => drop(
                response
                    .failures
                    .insert(server.to_string(), failure(&error)),
            ),
        }
    }
    Ok(response)
}

/// Gives out a key of each of these devices of local users that has one.
pub(in crate::api) async fn claim(
    api: &Api,
    wanted: ruma::api::federation::keys::claim_keys::v1::OneTimeKeyClaims,
) -> Result<ruma::api::federation::keys::claim_keys::v1::OneTimeKeys, Error> {
    if wanted.values().map(BTreeMap::len).sum::<usize>() > MOST {
        return Err(Error::too_large("too many devices at once"));
    }
    let job = move |tx: &Tx| {
        let mut claimed = BTreeMap::new();
        for (user_id, wanted) in &wanted {
            let Some(user) = users::num_of(tx, user_id)? else {
                continue;
            };
            let mut of_user = BTreeMap::new();
            for (device_id, algorithm) in wanted {
                let Some(device) = tx.devices()?.load((user, device_id.as_str()))? else {
                    continue;
                };
                let key = one_time::claim(tx, (user, device.num), algorithm.as_ref())?;
                let key = key.and_then(|(id, json)| Some((id.try_into().ok()?, raw_text(json)?)));
                if let Some(key) = key {
                    of_user.insert(device_id.clone(), BTreeMap::from([key]));
                }
            }
            if !of_user.is_empty() {
                claimed.insert(user_id.clone(), of_user);
            }
        }
        Ok::<_, users::Error>(claimed)
    };
    Ok(api.store.write(job).await?)
}

fn raw_text<T>(json: String) -> Option<Raw<T>> {
    Raw::from_json_string(json).ok()
}

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub async fn upload_signing_keys(
    api: Api,
    who: Session,
    Interactive { request, operation }: Interactive<upload_signing_keys::v3::Request>,
) -> Result<upload_signing_keys::v3::Response, Error> {
    let mut upload = Upload::default();
    let keys = [
        (Usage::Master, &request.master_key),
        (Usage::SelfSigning, &request.self_signing_key),
        (Usage::UserSigning, &request.user_signing_key),
    ];
    for (usage, key) in keys {
        if let Some(key) = key {
            upload.add(usage, key.json().get(), &who.user_id)?;
        }
    }
    let asks = |s: &_| upload.needs_authentication(s, who.user);
    if api.store.read(asks)? {
        let auth = request.auth.as_ref();
        authenticate(&api, Some(&who), operation, uiaa::PASSWORD, auth).await?;
    }
    let job = move |tx: &Tx| upload.keep(tx, (who.user, &who.user_id));
    api.store.write(job).await?;
    Ok(upload_signing_keys::v3::Response::new())
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
pub async fn upload_signatures(
    api: Api,
    who: Session,
    request: upload_signatures::v3::Request,
) -> Result<upload_signatures::v3::Response, Error> {
    let mut signed: Vec<(OwnedUserId, String, String)> = Vec::new();
    for (user, keys) in request.signed_keys {
        for (id, key) in keys.iter() {
            signed.push((user.clone(), id.to_owned(), key.get().to_owned()));
        }
    }
    if signed.len() > MOST {
        return Err(Error::too_large("too many keys at once"));
    }
    let signer = Signer {
        user: who.user,
        id: who.user_id,
    };
    let mut failures: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (user, id, json) in signed {
        let (signer, of, key) = (signer.clone(), user.clone(), id.clone());
        let job = move |tx: &Tx| signatures::add(tx, &signer, (&of, &key), &json);
        match api.store.write(job).await {
            Ok(()) => {}
            Err(error @ users::Error::Store(_)) => return Err(error.into()),
            Err(error) => {
                let errcode = match &error {
                    users::Error::InvalidSignature(_) => "M_INVALID_SIGNATURE",
                    users::Error::NotFound(_) => "M_NOT_FOUND",
                    users::Error::BadJson(_) => "M_BAD_JSON",
                    users::Error::TooLarge(_) => "M_TOO_LARGE",
                    _ => "M_INVALID_PARAM",
                };
                let failure = json!({ "errcode": errcode, "error": error.to_string() });
                let failure = serde_json::from_value(failure)
                    .map_err(|_| Error::Internal("a failure that does not parse".into()))?;
                failures.entry(user).or_default().insert(id, failure);
            }
        }
    }
    let mut response = upload_signatures::v3::Response::new();
    response.failures = failures;
    Ok(response)
}
