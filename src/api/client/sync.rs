//! Following what happens (client-server API, "Syncing").

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::api::{
    client::{
        filter::FilterDefinition,
        sync::sync_events::v3::{self, Filter},
    },
    error::DeserializationError,
};
use smol::{
    Timer, future,
    stream::{self, StreamExt},
};

use super::{device_list::device_lists_between, presence};
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Streamed},
    rooms::state::current,
    store::{self, DeviceNum, Position, Reader, Rows, Tx, records::Membership},
    sync::{
        Request, StateAfter, SyncToken,
        answer::{self, Candidate, Told},
        device_lists::{Asked, DeviceLists},
        fields::Fields,
        frame::{self, Frame},
        request::SyncRange,
    },
    users::{self, account_data::ignored_users, keys::one_time_keys, to_device},
};

/// The longest that a sync waits.
const LONGEST: Duration = Duration::from_secs(120);
/// The algorithm of one-time keys that clients have.
const USUAL: &str = "signed_curve25519";

/// Whether the client asks for the state after the timeline, and under which name it expects it.
/// matrix-js-sdk knows only the unstable name of MSC4222.
impl Quirk for StateAfter {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let is_unstable = pairs.any(|pair| pair == "org.matrix.msc4222.use_state_after=true");
        Ok(if is_unstable {
            Self::Unstable
        } else {
            Self::No
        })
    }
}

/// `GET /_matrix/client/v3/sync`
pub async fn sync(
    api: Api,
    who: Session,
    Adapted {
        request: asked,
        quirk: state_after,
    }: Adapted<v3::Request, StateAfter>,
) -> Result<Streamed, Error> {
    let timeout = asked.timeout.unwrap_or_default().min(LONGEST);
    let set_presence = asked.set_presence.clone();
    let request = Arc::new(request(&api, &who, asked, state_after)?);
    let mut deadline = Instant::now() + timeout;
    let device = (who.user, who.device);
    if api
        .presence
        .synced(device, &set_presence, api.clock.now_ms())
    {
        presence::changed(&api, who.user)?;
    }
    let arrived = request.since.map_or(Position::MIN, |since| since.to_device);
    forget_arrived(&api, who.device, arrived)?;
    loop {
        expire(&api)?;
        let changed = api.notifier.subscribe(who.user);
        still_there(&api, &who)?;
        let range = request.range(
            api.notifier.position(),
            api.notifier.instance(),
            api.clock.now_ms(),
        );
        let (candidates, mut fields) = look(&api, &request, range)?;
        let lists = device_lists(&api, &request, range).await?;
        if !lists.is_empty() {
            fields.put("device_lists", &lists)?;
        }
        let (letters, upto) = api.store.read(|s| {
            let upto = range.end.stored;
            to_device::pending(s, who.device, arrived, upto)
        })?;
        if !letters.is_empty() {
            fields.put_events("to_device", &letters)?;
        }
        let next_batch = answer::next_batch(&api.notifier, range, upto);
        if range.since.is_none() || request.full_state {
            keys_left(&api, &who, &mut fields)?;
            let begin = stream::once(Ok(Frame::begin(next_batch, &fields)));
            let rooms = frame::rooms(
                api.store.clone(),
                api.typing.clone(),
                request,
                range,
                candidates,
            );
            return Ok(Streamed::new(begin.chain(rooms.map(|piece| Ok(piece?)))));
        }
        let told = read(&api, &request, range, candidates).await?;
        let late = Instant::now() >= deadline;
        if !told.is_empty() || !fields.is_empty() || claimed(&api, &request, range)? || late {
            keys_left(&api, &who, &mut fields)?;
            let mut out = Frame::begin(next_batch, &fields);
            let mut frame = Frame::default();
            told.iter().for_each(|told| frame.room(told, &mut out));
            frame.end(&mut out);
            return Ok(Streamed::new(stream::once(Ok(out))));
        }
        let woken = async {
            // An error says that the notifier let go of us, which is as good a reason to look.
            let _ = changed.recv().await;
            true
        };
        let timer = async {
            Timer::at(wake_at(&api, deadline)).await;
            true
        };
        let go_on = future::or(woken, timer);
        let stop = async {
            api.stopping.wait().await;
            false
        };
        if !future::or(go_on, stop).await {
            deadline = Instant::now();
        }
    }
}

/// The device has got its messages up to `arrived`: they need not be kept.
fn forget_arrived(api: &Api, device: DeviceNum, arrived: Position) -> Result<(), Error> {
    if api
        .store
        .read(|s| to_device::has_pending_until(s, device, arrived))?
    {
        let store = api.store.clone();
        api.federation.spawn(async move {
            let job = move |tx: &Tx| to_device::remove_until(tx, device, arrived);
            if let Err(error) = store.write_soon(job).await {
                log::debug!("messages that have arrived are kept for longer: {error}");
            }
        });
    }
    Ok(())
}

/// A device that is logged out while it waits hears nothing more.
fn still_there(api: &Api, who: &Session) -> Result<(), Error> {
    let is_there = api.store.read(|s| s.device_ids()?.has(who.device))?;
    if is_there {
        Ok(())
    } else {
        Err(Error::unknown_token(false))
    }
}

fn request(
    api: &Api,
    who: &Session,
    asked: v3::Request,
    state_after: StateAfter,
) -> Result<Request, Error> {
    let state_after = if asked.use_state_after {
        StateAfter::Stable
    } else {
        state_after
    };
    let filter = match asked.filter {
        None => FilterDefinition::default(),
        Some(Filter::FilterDefinition(filter)) => filter,
        Some(Filter::FilterId(id)) => api.users.filter(who.user, &id)?,
        Some(_) => return Err(Error::invalid_param("that is no filter")),
    };
    let since = match asked.since {
        None => None,
        Some(since) => Some(
            since
                .parse::<SyncToken>()
                .map_err(crate::rooms::Error::from)?,
        ),
    };
    Ok(Request {
        user: who.user,
        user_id: who.user_id.clone(),
        device: who.device,
        filter,
        since,
        full_state: asked.full_state,
        state_after,
        ignored: api.store.read(|s| ignored_users::load(s, who.user))?,
        known: api
            .lazy_loaded_members
            .begin(who.device, since.map(|since| since.position)),
    })
}

/// Whose devices the client has to look at again: in an initial sync it has to look at all.
async fn device_lists(
    api: &Api,
    request: &Request,
    range: SyncRange,
) -> Result<DeviceLists, Error> {
    let Some(since) = range.since else {
        return Ok(DeviceLists::default());
    };
    let asked = Asked {
        user: request.user,
        user_id: request.user_id.clone(),
        after: since.position,
        upto: range.end.stored,
    };
    device_lists_between(api, asked).await
}

/// Whether keys of the device have been given out since.
fn claimed(api: &Api, request: &Request, range: SyncRange) -> Result<bool, Error> {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let claimed =
        |s: &store::Snapshot| one_time_keys::counts_changed_after(s, request.device, since);
    Ok(api.store.read(claimed)?)
}

/// How many keys the device has left, which every answer tells: without it a client may think that
/// nothing has changed. The usual algorithm is named also when none is left.
fn keys_left(api: &Api, who: &Session, fields: &mut Fields) -> Result<(), Error> {
    let mut left = api.store.read(|s| one_time_keys::counts(s, who.device))?;
    left.counts.entry(USUAL.to_owned()).or_default();
    fields.put("device_one_time_keys_count", &left.counts)?;
    fields.put("device_unused_fallback_key_types", &left.unused_fallback)?;
    Ok(())
}

/// The rooms that may have something to tell, and what there is beside rooms.
fn look(api: &Api, request: &Request, range: SyncRange) -> Result<(Vec<Candidate>, Fields), Error> {
    api.store.read(|s: &store::Snapshot| {
        let candidates = answer::candidates(s, &api.notifier, &api.typing, request, range)?;
        let mut fields = answer::beside_rooms(s, &api.notifier, request, range)?;
        let presence = answer::presence(s, &api.presence, request, range, &candidates)?;
        if let Some(presence) = presence {
            fields.put("presence", &presence)?;
        }
        Ok((candidates, fields))
    })
}

/// What there is to tell of `candidates`.
async fn read(
    api: &Api,
    request: &Arc<Request>,
    range: SyncRange,
    mut candidates: Vec<Candidate>,
) -> Result<Vec<Told>, Error> {
    if answer::is_small(&candidates, range) {
        let read = |s: &store::Snapshot| answer::rooms(s, &api.typing, request, range, &candidates);
        return Ok(api.store.read(read)?);
    }
    let mut told = Vec::new();
    while !candidates.is_empty() {
        let next = candidates
            .drain(..candidates.len().min(answer::SLICE))
            .collect();
        told.extend(answer::slice(&api.store, &api.typing, request, range, next).await?);
    }
    Ok(told)
}

/// Ends the typing that has run out or whose typists have left, and the presence of those who have
/// fallen silent, and tells those whom it concerns.
fn expire(api: &Api) -> Result<(), Error> {
    let now = api.clock.now_ms();
    let changed = api.store.read(|s| {
        // Where that cannot be read, typing runs out later.
        api.typing.expire(now, |room, user| {
            let is_in = users::id_of(s, user)
                .map_err(Into::into)
                .and_then(|user| current::membership(s, room, &user));
            is_in.map_or(true, |membership| membership == Membership::Join)
        })
    });
    for room in changed {
        api.typing
            .changed(room, api.notifier.ephemeral_changed_in(room));
    }
    for user in api.presence.expire(now) {
        presence::changed(api, user)?;
    }
    Ok(())
}

/// When to look again if nothing wakes us: when the time is up, or somebody's typing or presence
/// runs out.
fn wake_at(api: &Api, deadline: Instant) -> Instant {
    let ends = [api.typing.next_end(), api.presence.next_expiry()];
    match ends.into_iter().flatten().min() {
        Some(end) => {
            let left = end.saturating_sub(api.clock.now_ms()).max(1);
            deadline.min(Instant::now() + Duration::from_millis(left))
        }
        None => deadline,
    }
}
