use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, UInt,
    api::{Direction, federation::event::get_event_by_timestamp::v1::Request},
};

use crate::federation::{Client, Limits};

/// How many servers are tried.
const MAX_SERVERS: usize = 3;
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    max_bytes: 16 * 1024,
};

/// The event nearest to `ts` as the first of `servers` that responds says: its id, and its timestamp in
/// milliseconds (server-server API, `GET /timestamp_to_event/{roomId}`).
pub async fn request(
    client: &Client,
    servers: impl Iterator<Item = OwnedServerName>,
    room: &RoomId,
    ts: u64,
    dir: Direction,
) -> Option<(OwnedEventId, u64)> {
    for server in servers.take(MAX_SERVERS) {
        let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
        let request = Request::new(room.to_owned(), at, dir);
        match client.send_with_limits(&server, request, LIMITS).await {
            Ok(response) => {
                let ts = u64::from(response.origin_server_ts.get());
                return Some((response.event_id, ts));
            }
            Err(error) => {
                log::debug!("no event of room {room} near {ts} ms from {server}: {error}");
            }
        }
    }
    None
}
