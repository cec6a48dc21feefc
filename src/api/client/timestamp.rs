//! `timestamp_to_event` (client-server API, "Getting events for a room").

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        Direction,
        client::room::get_event_by_timestamp::v1::{Request, Response},
    },
};

use crate::{
    api::{Api, Error, Session},
    rooms::timeline::{
        filter,
        history_visibility::{self, UserVisibility},
        timestamp_to_event::{self, Nearest},
    },
    store::RoomNum,
    users::account_data::ignored_users,
};

/// The most requests for history that one request sends to other servers.
const MAX_BACKFILLS: usize = 5;

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub async fn get_event_by_timestamp(
    api: Api,
    session: Session,
    request: Request,
) -> Result<Response, Error> {
    let room = api
        .store
        .read(|s| history_visibility::readable_room(s, &request.room_id, session.user))?;
    let mut nearest = nearest_here(&api, &session, room, &request).await?;
    if nearest.gap.is_some() {
        nearest = nearest_after_backfill(&api, &session, room, &request, nearest).await?;
    }
    let (id, ts) = nearest
        .event
        .ok_or_else(|| Error::not_found("no event that you may see is on this side of ts"))?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
    Ok(Response::new(id, ts))
}

/// The nearest event here that the user may see.
async fn nearest_here(
    api: &Api,
    session: &Session,
    room: RoomNum,
    request: &Request,
) -> Result<Nearest, Error> {
    let (user, user_id, ts, dir) = (
        session.user,
        session.user_id.clone(),
        request.ts.get().into(),
        request.dir,
    );
    let scan = api.store.scan("timestamp_to_event", move |s| {
        let mut visibility = UserVisibility::new(s, room, &user_id)?;
        let ignored = ignored_users::load(s, user)?;
        timestamp_to_event::nearest(s, room, ts, dir, |event| {
            Ok(visibility.can_see(s, event.num, &event.header)?
                && !filter::is_left_out(s, &ignored, event)?)
        })
    });
    Ok(scan.await?)
}

/// Backfills as long as another server says that it has a nearer event.
async fn nearest_after_backfill(
    api: &Api,
    session: &Session,
    room: RoomNum,
    request: &Request,
    mut nearest: Nearest,
) -> Result<Nearest, Error> {
    let (id, ts, dir) = (&request.room_id, request.ts.get().into(), request.dir);
    let permit = api.user_lookup_permit(session.user).await?;
    let remote = api.federation.timestamp_to_event(room, id, ts, dir).await?;
    drop(permit);
    for _ in 0..MAX_BACKFILLS {
        let (Some(gap), Some((_, remote_ts))) = (nearest.gap, &remote) else {
            break;
        };
        let local_ts = nearest.event.as_ref().map(|(_, ts)| *ts);
        let is_nearer = match dir {
            Direction::Forward => {
                ts <= *remote_ts && local_ts.is_none_or(|local_ts| *remote_ts < local_ts)
            }
            Direction::Backward => {
                *remote_ts <= ts && local_ts.is_none_or(|local_ts| local_ts < *remote_ts)
            }
        };
        if !is_nearer || !api.federation.backfill(session.user, room, gap).await? {
            break;
        }
        nearest = nearest_here(api, session, room, request).await?;
    }
    Ok(nearest)
}
