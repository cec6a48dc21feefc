//! The whole server in this process, asked without a socket.

mod accounts;
mod census;
mod device_lists;
mod edge;
mod ephemeral;
mod federation;
mod home;
mod keys;
mod media;
mod media_pictures;
mod media_previews;
mod messages;
mod nonsense;
mod own_data;
mod push_rules;
mod rooms;
mod rooms_create;
mod rooms_directory;
mod rooms_members;
mod spaces;
mod sync;
mod sync_filters;
mod sync_lazy;
mod sync_property;
mod sync_state;
mod unread;
