//! The events that notified a user, from all rooms, newest first (client-server API, "Listing Notifications").
//!
//! They are read from the timelines of the user's rooms, room by room in the order of the newest notification
//! that is left. Of invites, those are listed to which the user has not responded. What is read for one response
//! is bounded: the next one goes on from there.

use std::collections::{BTreeSet, BinaryHeap};

use ruma::{OwnedRoomId, OwnedUserId, push::Action};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::notification::{as_stored, of_invite};
use crate::{
    protocol::build::EventDraft,
    rooms::{
        Error,
        event::{self, StoredEvent},
        room,
        timeline::{
            self,
            client_event::{Formatter, RoomIdField},
            filter,
        },
        unread::{
            notifications::{Found, Notification, Notifications},
            notify,
        },
    },
    store::{
        DeviceNum, Place, Position, Reader, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
    users::account_data::ignored_users,
};

/// The most rows of timelines that are read for one response.
const MAX_ROWS: usize = 20_000;

#[derive(Clone, Debug)]
pub struct ListingRequest {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub device: DeviceNum,
    /// Only notifications before this position are wanted.
    pub before: Position,
    pub limit: usize,
    pub only_highlights: bool,
    pub now_ms: u64,
}

pub struct Listing {
    pub notifications: Vec<ListedNotification>,
    /// Where the next request goes on; `None` if nothing is left.
    pub next: Option<Position>,
}

pub struct ListedNotification {
    pub room_id: OwnedRoomId,
    /// In the client format, without its room id.
    pub event: Box<RawValue>,
    pub actions: Vec<Action>,
    pub is_read: bool,
    /// NOTSPEC: the event's `origin_server_ts`; when the user was notified is not stored.
    pub ts: u64,
}

/// What is listed.
enum Source {
    Room(JoinedRoom),
    Invite(RoomNum, MemberRow),
}

/// A room whose notifications are listed.
struct JoinedRoom {
    room: RoomNum,
    notifications: Notifications,
    /// The place from which to read on.
    from: Place,
    /// The next notification of the room, if it was found.
    next: Option<Notification>,
}

impl JoinedRoom {
    /// The room, and a position after which it has no notification; `None` if it has none at all.
    fn new(
        r: &impl Reader,
        request: &ListingRequest,
        room: RoomNum,
        member: &MemberRow,
    ) -> Result<Option<(Position, Self)>, Error> {
        let notifications = Notifications::new(r, room, request.user, member)?;
        let last = Position(request.before.0.saturating_sub(1));
        let from = if notifications.last_position() <= last {
            Some(notifications.last_place())
        } else {
            timeline::place_at(r, room, last)?
        };
        let Some(from) = from else {
            return Ok(None);
        };
        let position = notifications.last_position().min(last);
        let room = Self {
            room,
            notifications,
            from,
            next: None,
        };
        Ok(Some((position, room)))
    }
}

/// A source that is to be looked at, the newest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    position: Position,
    /// Whether the position is only one after which the source has no notification. Such a source goes before
    /// one that has a notification there: a page that ended between the two would be repeated for ever.
    is_open: bool,
    source: usize,
}

pub fn list(r: &impl Reader, request: &ListingRequest) -> Result<Listing, Error> {
    let ignored = ignored_users::load(r, request.user)?;
    let (mut sources, mut order) = (Vec::new(), BinaryHeap::new());
    for row in r.memberships()?.prefix(request.user)? {
        let (key, member) = row?;
        let (member, (_, room)) = (member.record(&key)?, key.value());
        let source = match member.membership {
            Membership::Join => JoinedRoom::new(r, request, room, &member)?
                .map(|(last, room)| (last, true, Source::Room(room))),
            Membership::Invite if member.position < request.before => {
                Some((member.position, false, Source::Invite(room, member)))
            }
            _ => None,
        };
        if let Some((position, is_open, source)) = source {
            order.push(Turn {
                position,
                is_open,
                source: sources.len(),
            });
            sources.push(source);
        }
    }
    let (mut notifications, mut rows) = (Vec::new(), MAX_ROWS);
    while let Some(turn) = order.pop() {
        let is_full = notifications.len() >= request.limit;
        if is_full || rows == 0 {
            let next = Some(Position(turn.position.0.saturating_add(1)));
            return Ok(Listing {
                notifications,
                next,
            });
        }
        let source = match &mut sources[turn.source] {
            Source::Room(source) => source,
            Source::Invite(room, member) => {
                rows -= 1;
                notifications.extend(listed_invite(r, request, *room, member)?);
                continue;
            }
        };
        if let Some(next) = source.next.take() {
            if next.highlight || !request.only_highlights {
                notifications.extend(listed(r, request, &ignored, source.room, next)?);
            }
            source.from = Place(next.place.0.saturating_sub(1));
            order.push(Turn {
                position: Position(turn.position.0.saturating_sub(1)),
                is_open: true,
                ..turn
            });
            continue;
        }
        let all = Position::MIN;
        match source
            .notifications
            .newest(r, source.from, all, &mut rows)?
        {
            Found::Notification(next) => {
                source.next = Some(next);
                order.push(Turn {
                    position: next.position,
                    is_open: false,
                    ..turn
                });
            }
            Found::OutOfRows(place) => {
                source.from = place;
                let row = timeline::backwards(r, source.room, place, 1)?.pop();
                order.extend(row.map(|(_, row)| Turn {
                    position: row.position,
                    ..turn
                }));
            }
            Found::End => {}
        }
    }
    Ok(Listing {
        notifications,
        next: None,
    })
}

/// The invite as the user sees it; `None` if it does not notify, or is not requested.
fn listed_invite(
    r: &impl Reader,
    request: &ListingRequest,
    room: RoomNum,
    member: &MemberRow,
) -> Result<Option<ListedNotification>, Error> {
    let Some((stored, actions)) = of_invite(r, request.user, room, member)? else {
        return Ok(None);
    };
    if request.only_highlights && !actions.iter().any(Action::is_highlight) {
        return Ok(None);
    }
    let mut formatter = formatter(r, request, room)?;
    let notification = ListedNotification::new(r, &mut formatter, &stored, actions, false)?;
    Ok(Some(notification))
}

fn formatter(r: &impl Reader, request: &ListingRequest, room: RoomNum) -> Result<Formatter, Error> {
    let (user_id, device) = (&request.user_id, Some(request.device));
    Formatter::new(r, room, user_id, device, request.now_ms, RoomIdField::Omit)
}

impl ListedNotification {
    fn new(
        r: &impl Reader,
        formatter: &mut Formatter,
        stored: &StoredEvent,
        actions: Vec<Action>,
        is_read: bool,
    ) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Sent {
            origin_server_ts: u64,
        }
        Ok(Self {
            room_id: room::id(r, formatter.room())?,
            event: formatter.format(r, stored)?,
            actions,
            is_read,
            ts: stored.parse::<Sent>()?.origin_server_ts,
        })
    }
}

/// The notification as the user sees it; `None` if the user does not see it.
fn listed(
    r: &impl Reader,
    request: &ListingRequest,
    ignored: &BTreeSet<OwnedUserId>,
    room: RoomNum,
    notification: Notification,
) -> Result<Option<ListedNotification>, Error> {
    let user_id = &request.user_id;
    let stored = event::load(r, notification.event)?;
    if stored.header.redacted_by.is_some()
        || stored.sender()? == *user_id
        || filter::is_left_out(r, ignored, &stored)?
    {
        return Ok(None);
    }
    let mut formatter = formatter(r, request, room)?;
    let Some(stored) = formatter.visibility.visible(r, stored)? else {
        return Ok(None);
    };
    let draft = EventDraft::from_pdu(&stored.pdu(room::rules(r, room)?)?)?;
    let actions = notify::actions(r, room, &draft, request.user, user_id)?;
    let actions = as_stored(actions, notification.highlight);
    let is_read = notification.is_read;
    let listed = ListedNotification::new(r, &mut formatter, &stored, actions, is_read)?;
    Ok(Some(listed))
}
