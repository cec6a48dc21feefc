//! `timestamp_to_event` for other servers.

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::event::get_event_by_timestamp::v1::{Request, Response},
};

use crate::{
    api::{Api, Error, Origin},
    rooms::timeline::timestamp_to_event,
    store::records::Status,
};

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
pub async fn get_event_by_timestamp(
    api: Api,
    origin: Origin,
    request: Request,
) -> Result<Response, Error> {
    let (ts, dir) = (u64::from(request.ts.get()), request.dir);
    let server_acls = api.federation.server_acls().clone();
    let scan = api.store.scan("a time for another server", move |s| {
        let room = server_acls.shared_with(s, &request.room_id, &origin.server)?;
        timestamp_to_event::nearest(s, room, ts, dir, |event| {
            Ok(event.header.status == Status::Accepted)
        })
    });
    let nearest = scan.await?.event;
    let (id, ts) = nearest.ok_or_else(|| Error::not_found("no event is on this side of ts"))?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
    Ok(Response::new(id, ts))
}
