//! The servers in a room, and what follows for device lists when their users meet or part.

pub mod device_list_announcement;
pub mod device_list_invalidation;
pub mod in_room;

pub(in crate::rooms) use self::in_room::change;
pub use self::in_room::{all, is_in, is_shared, name, names, num, of_room, rooms, sharing_rooms};
