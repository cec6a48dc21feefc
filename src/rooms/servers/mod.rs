//! The servers in a room, which of them may take part, and what follows for device lists when their
//! users meet or part.

pub mod device_list_announcement;
pub mod device_list_invalidation;
pub mod in_room;
pub mod server_acl;
pub mod shared_rooms;

pub(in crate::rooms) use self::in_room::change;
pub use self::in_room::{all, is_in, is_shared, name, names, num, of_room, rooms, sharing_rooms};
