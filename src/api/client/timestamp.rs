//! What happened in a room at a certain time.

use ruma::{
    MilliSecondsSinceUnixEpoch, RoomId, UInt,
    api::{
        Direction,
        client::room::get_event_by_timestamp::v1::{Request, Response},
    },
};

use crate::{
    api::{Api, Error, Session},
    rooms::timeline::{
        history_visibility::{self, UserVisibility},
        timestamp_to_event::{self, Nearest},
    },
    store::RoomNum,
};

/// How often one request has history fetched from other servers.
const FETCHES: usize = 5;

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub async fn get_event_by_timestamp(
    api: Api,
    who: Session,
    request: Request,
) -> Result<Response, Error> {
    let room_id = &*request.room_id;
    let room = api
        .store
        .read(|s| history_visibility::readable_room(s, room_id, who.user))?;
    let moment = (u64::from(request.ts.get()), request.dir);
    let mut nearest = look(&api, &who, room, moment).await?;
    if nearest.gap.is_some() {
        nearest = look_further(&api, &who, (room, room_id), moment, nearest).await?;
    }
    let found = nearest.event;
    let (id, ts) = found.ok_or_else(|| Error::not_found("there is no such event"))?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
    Ok(Response::new(id, ts))
}

/// The nearest event here that the user may see.
async fn look(
    api: &Api,
    who: &Session,
    room: RoomNum,
    (ts, dir): (u64, Direction),
) -> Result<Nearest, Error> {
    let user = who.user_id.clone();
    let scan = api.store.scan("a time", move |s| {
        let mut visibility = UserVisibility::new(s, room, &user)?;
        timestamp_to_event::nearest(s, room, ts, dir, |event| visibility.can_see(s, event))
    });
    Ok(scan.await?)
}

/// The same after fetching what is missing, if another server knows of a nearer event.
async fn look_further(
    api: &Api,
    who: &Session,
    (room, id): (RoomNum, &RoomId),
    moment: (u64, Direction),
    mut nearest: Nearest,
) -> Result<Nearest, Error> {
    let (ts, dir) = moment;
    let told = api.federation.timestamp_to_event(room, id, ts, dir).await?;
    for _ in 0..FETCHES {
        let (Some(gap), Some((_, ts))) = (nearest.gap, &told) else {
            break;
        };
        if !is_nearer(*ts, &nearest, moment) || !api.federation.backfill(room, gap).await? {
            break;
        }
        nearest = look(api, who, room, moment).await?;
    }
    Ok(nearest)
}

/// Whether an event of the time `told` is nearer than what is here.
fn is_nearer(told: u64, nearest: &Nearest, (ts, dir): (u64, Direction)) -> bool {
    let here = nearest.event.as_ref().map(|(_, here)| *here);
    match dir {
        Direction::Forward => ts <= told && here.is_none_or(|here| told < here),
        Direction::Backward => told <= ts && here.is_none_or(|here| here < told),
    }
}
