//! What other servers know of a certain time in a room.

use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UInt,
    api::{Direction, federation::event::get_event_by_timestamp::v1::Request},
};

use crate::{
    federation::{Federation, Limits},
    rooms::{self, servers},
    store::RoomNum,
};

/// How many servers are asked in turn.
const SERVERS: usize = 3;
const LIMITS: Limits = Limits {
    time: Duration::from_secs(5),
    size: 16 * 1024,
};

impl Federation {
    /// The event nearest to a time, as the first server in the room says that answers: its id, and
    /// its time in milliseconds since the epoch.
    ///
    /// Source: server-server API, `GET /timestamp_to_event/{roomId}`.
    pub async fn nearest_event(
        &self,
        (room, id): (RoomNum, &RoomId),
        (ts, dir): (u64, Direction),
    ) -> Result<Option<(OwnedEventId, u64)>, rooms::Error> {
        let servers = self.store.read(|s| servers::names(s, room))?;
        let servers = servers.into_iter().filter(|server| self.allows(server));
        for server in servers.take(SERVERS) {
            let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
            let request = Request::new(id.to_owned(), at, dir);
            match self.client.send_within(&server, request, LIMITS).await {
                Ok(told) => {
                    let ts = u64::from(told.origin_server_ts.get());
                    return Ok(Some((told.event_id, ts)));
                }
                Err(error) => log::debug!("{server} knows no event of that time: {error}"),
            }
        }
        Ok(None)
    }
}
