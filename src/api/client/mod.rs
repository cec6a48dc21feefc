//! The client-server API. One file per family of endpoints, named as ruma names them.

pub mod account;
pub mod alias;
pub mod backup;
pub mod config;
pub mod dehydrated_device;
pub mod device;
pub mod device_list;
pub mod directory;
pub mod discovery;
pub mod filter;
pub mod key_query;
pub mod keys;
pub mod media;
pub mod membership;
pub mod message;
pub mod openid;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipt;
pub mod register;
pub mod room;
pub mod session;
pub mod space;
pub mod state;
pub mod summary;
pub mod sync;
pub mod tag;
pub mod timestamp;
pub mod to_device;
pub mod typing;
pub mod uiaa;
pub mod uiaa_page;

use std::sync::Arc;

use ruma::RoomId;

use super::Error;
use crate::{
    clock::Clock,
    config::Config,
    federation::{Federation, Previews, RemoteMedia},
    media::Media,
    pool::Pool,
    rates::Rates,
    rooms::{self, Actor, Local, state::current, typing::Typing},
    stop::Stopping,
    store::{RoomNum, Store, records::Membership},
    sync::{Hub, KnownMembers},
    users::{Session, Users, presence::Presence},
};

/// What every handler gets first.
pub type Api = Arc<ClientApi>;

/// The parts of the server that handlers work with.
#[derive(Debug)]
pub struct ClientApi {
    /// The settings.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// The threads for what takes long.
    pub pool: Pool,
    /// The database.
    pub store: Store,
    /// Who this server is in rooms.
    pub local: Local,
    /// The accounts.
    pub users: Users,
    /// What changed, and who waits for it.
    pub hub: Arc<Hub>,
    /// Other servers.
    pub federation: Arc<Federation>,
    /// Pictures and files.
    pub media: Media,
    /// Those of other servers.
    pub remote_media: RemoteMedia,
    /// What is shown of web pages.
    pub previews: Previews,
    /// Who is typing.
    pub typing: Arc<Typing>,
    /// Which members devices have been told of.
    pub known_members: Arc<KnownMembers>,
    /// Who is online.
    pub presence: Presence,
    /// How often someone may do something, for what only a handler knows.
    pub rates: Rates,
    /// The end of the server: whatever waits longer than a second races against it.
    pub stopping: Stopping,
}

impl ClientApi {
    /// `who` as somebody who does something to a room now.
    fn actor(&self, who: &Session) -> Actor {
        Actor {
            num: who.user,
            id: who.user_id.clone(),
            now: self.clock.timestamp(),
        }
    }

    /// The number of the room `room_id`, which `who` is in. Who is not in it does not learn
    /// whether there is such a room.
    fn joined_room(&self, who: &Session, room_id: &RoomId) -> Result<RoomNum, Error> {
        let room = self.store.read(|s| {
            let room = match rooms::room::num(s, room_id) {
                Err(rooms::Error::UnknownRoom) => return Ok(None),
                room => room?,
            };
            let row = current::local_membership(s, who.user, room)?;
            let is_in = row.is_some_and(|row| row.membership == Membership::Join);
            Ok::<_, rooms::Error>(is_in.then_some(room))
        })?;
        room.ok_or_else(|| Error::forbidden("you are not in this room"))
    }
}
