//! The servers in a room, its server ACL, which users share rooms, and the effects of joins and leaves
//! on device lists.

pub mod device_list_announcement;
pub mod device_list_invalidation;
pub mod in_room;
pub mod server_acl;
pub mod shared_rooms;

pub(in crate::rooms) use self::in_room::add_joined;
pub use self::in_room::{
    all, count, is_in, is_in_any, is_shared, name, names, num, of_room, presence_recipients, rooms,
    shares_room, sharing_rooms,
};
