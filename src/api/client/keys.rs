//! Upload of device, one-time and cross-signing keys, claims of one-time keys, and signatures
//! (client-server API, "End-to-End Encryption").

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use ruma::{
    DeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    api::{
        client::keys::{claim_keys, upload_keys, upload_signatures, upload_signing_keys},
        error::{DeserializationError, ErrorKind},
        federation::keys::claim_keys::v1::OneTimeKeys,
    },
    encryption::OneTimeKey,
    serde::{JsonObject, Raw},
};
use serde::de::Error as _;
use serde_json::{Value, json, value::RawValue};

use super::uiaa::{self, Interactive};
use crate::{
    api::{
        Adapted, Api, Error, Quirk, Session, Streamed,
        key_claims::{ClaimedKeys, check_count, claims},
        keys::MAX_KEYS,
    },
    federation,
    rates::Kind,
    shares::Share,
    store::{Reader, Rows, Tx, UserNum},
    users::{
        self,
        keys::{
            cross_signing::{AuthLevel, StoreOutcome, Upload, Usage},
            device_keys, one_time_keys,
            signatures::{self, Signer},
        },
    },
};

/// The most signatures that one job stores.
const MAX_SIGNATURES_PER_JOB: usize = 20;

/// How long other servers are waited for.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const REQUESTS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// `device_keys` may be absent, but not `null`, as in Synapse: the client would take its keys for uploaded.
#[derive(Debug)]
pub struct NoNullDeviceKeys;

impl Quirk for NoNullDeviceKeys {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let body: BTreeMap<String, &RawValue> = serde_json::from_slice(request.body())?;
        match body.get("device_keys").map(|keys| keys.get()) {
            Some("null") => {
                Err(serde_json::Error::custom("`device_keys` is an object, found null").into())
            }
            _ => Ok(Self),
        }
    }
}

/// `POST /_matrix/client/v3/keys/upload`
pub async fn upload_keys(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<upload_keys::v3::Request, NoNullDeviceKeys>,
) -> Result<upload_keys::v3::Response, Error> {
    let device_keys = match &request.device_keys {
        Some(keys) => {
            let json = keys.json().get();
            Some(device_keys::check(
                json,
                &session.user_id,
                &session.device_id,
            )?)
        }
        None => None,
    };
    let once = uploaded(request.one_time_keys);
    let fallback = uploaded(request.fallback_keys);
    one_time_keys::check(&once)?;
    one_time_keys::check(&fallback)?;
    let job = move |tx: &Tx| {
        // The device may be logged out by now; its keys would never be removed.
        if !tx.device_ids()?.has(session.device)? {
            return Err(users::Error::UnknownToken { soft_logout: false });
        }
        if let Some(keys) = &device_keys {
            device_keys::put(tx, session.user, &session.device_id, session.device, keys)?;
        }
        one_time_keys::add(tx, session.device, &once)?;
        one_time_keys::put_fallback(tx, session.device, &fallback)?;
        Ok::<_, users::Error>(one_time_keys::counts(tx, session.device)?)
    };
    let left = api.store.write(job).await?;
    let counts = left.counts.into_iter();
    Ok(upload_keys::v3::Response::new(
        counts
            .map(|(algorithm, count)| (algorithm.into(), ruma::UInt::new_saturating(count)))
            .collect(),
    ))
}

pub(super) fn uploaded(
    keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> one_time_keys::UploadedKeys {
    let keys = keys.into_iter();
    keys.map(|(id, key)| (id.to_string(), key.into_json()))
        .collect()
}

/// Splits entries by user into those of local and those of remote users.
pub(super) fn split_by_server<T>(
    api: &Api,
    entries: BTreeMap<OwnedUserId, T>,
) -> (BTreeMap<OwnedUserId, T>, BTreeMap<OwnedUserId, T>) {
    entries
        .into_iter()
        .partition(|(user, _)| api.local.has(user))
}

/// The user's share of the keys that are requested of other servers at once, for so many more users.
pub(super) fn share_of_requests(
    api: &Api,
    session: &Session,
    users: usize,
) -> Result<Share<UserNum>, Error> {
    let share = api.federation.user_keys().share(session.user, users);
    share.ok_or_else(|| {
        Error::limit_exceeded(
            "the keys of too many users of other servers are requested at once; try again when earlier requests \
             are answered",
            REQUESTS_RETRY_AFTER,
        )
    })
}

pub(super) fn failure(error: &federation::Error) -> Value {
    let kind = error.kind().unwrap_or(&ErrorKind::Unknown);
    json!({ "errcode": kind.errcode().as_str(), "error": error.to_string() })
}

/// `POST /_matrix/client/v3/keys/claim`. A user could use up all keys of another's device: beyond a rate they
/// get its fallback key only.
pub async fn claim_keys(
    api: Api,
    session: Session,
    request: claim_keys::v3::Request,
) -> Result<Streamed, Error> {
    let time = request.timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    check_count(&request.one_time_keys)?;
    let (local, remote) = split_by_server(&api, request.one_time_keys);
    let share = share_of_requests(&api, &session, remote.len())?;
    let is_limited = |user: &UserId, device: &DeviceId| {
        let key = (session.user, user, device);
        api.rates.check(Kind::ClaimKeysOfDevice, key).is_err()
    };
    let local = claims(local, is_limited);
    let (mut received, mut failures, mut memory) =
        (OneTimeKeys::new(), JsonObject::new(), Vec::new());
    let user_keys = api.federation.user_keys();
    for (server, answer) in user_keys.claim(session.user, remote, time).await {
        match answer {
            Ok((answer, of_answer)) => {
                received.extend(answer.one_time_keys);
                memory.push(of_answer);
            }
            Err(error) => drop(failures.insert(server.to_string(), failure(&error))),
        }
    }
    let claimed = ClaimedKeys::new(local, received, Some(failures), (share, memory));
    claimed.into_response(&api.store).await
}

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub async fn upload_signing_keys(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<upload_signing_keys::v3::Request>,
) -> Result<upload_signing_keys::v3::Response, Error> {
    let mut upload = Upload::default();
    let keys = [
        (Usage::Master, &request.master_key),
        (Usage::SelfSigning, &request.self_signing_key),
        (Usage::UserSigning, &request.user_signing_key),
    ];
    for (usage, key) in keys {
        if let Some(key) = key {
            upload.add(usage, key.json().get(), &session.user_id)?;
        }
    }
    let store = |auth: AuthLevel| {
        let (upload, user, user_id) = (upload.clone(), session.user, session.user_id.clone());
        api.store
            .write(move |tx| upload.store(tx, user, &user_id, auth))
    };
    if store(AuthLevel::AccessToken).await? == StoreOutcome::AuthenticationRequired {
        uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
        store(AuthLevel::UserInteractive).await?;
    }
    Ok(upload_signing_keys::v3::Response::new())
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
pub async fn upload_signatures(
    api: Api,
    session: Session,
    request: upload_signatures::v3::Request,
) -> Result<upload_signatures::v3::Response, Error> {
    let mut signed: Vec<(OwnedUserId, String, String)> = Vec::new();
    for (user, keys) in request.signed_keys {
        for (id, key) in keys.iter() {
            signed.push((user.clone(), id.to_owned(), key.get().to_owned()));
        }
    }
    if signed.len() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "a request may have at most {MAX_KEYS} signed keys, found {}",
            signed.len()
        )));
    }
    let signer = Signer {
        user: session.user,
        id: session.user_id,
    };
    let mut failures: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for some in signed.chunks(MAX_SIGNATURES_PER_JOB) {
        let (signer, some) = (signer.clone(), some.to_vec());
        let job = move |tx: &Tx| {
            let mut refused = Vec::new();
            for (of, key, json) in &some {
                match signatures::add(tx, &signer, of, key, json) {
                    Ok(()) => {}
                    Err(error @ users::Error::Store(_)) => return Err(error),
                    Err(error) => refused.push((of.clone(), key.clone(), error)),
                }
            }
            Ok(refused)
        };
        for (user, key, error) in api.store.write(job).await? {
            let failure = serde_json::from_value(refusal(&error))
                .map_err(|_| Error::Internal("a failure that does not parse"))?;
            failures.entry(user).or_default().insert(key, failure);
        }
    }
    let mut response = upload_signatures::v3::Response::new();
    response.failures = failures;
    Ok(response)
}

fn refusal(error: &users::Error) -> Value {
    let errcode = match error {
        users::Error::InvalidSignature(_) => "M_INVALID_SIGNATURE",
        users::Error::NotFound(_) => "M_NOT_FOUND",
        users::Error::BadJson(_) => "M_BAD_JSON",
        users::Error::TooLarge(_) => "M_TOO_LARGE",
        _ => "M_INVALID_PARAM",
    };
    json!({ "errcode": errcode, "error": error.to_string() })
}
