//! The whole server in this process, mostly over the client-server API. Only requests between
//! servers go through sockets.

mod account_data;
mod accounts;
mod api_standards;
mod client_api;
mod cross_signing;
mod dehydrated_devices;
mod device_lists;
mod device_lists_property;
mod e2ee_keys;
mod endpoints;
mod ephemeral;
mod federation;
mod fuzz;
mod key_backup;
mod media;
mod media_deletion;
mod media_thumbnails;
mod messages;
mod mock_web_server;
mod profiles;
mod push_rules;
mod room_creation;
mod room_directory;
mod room_membership;
mod spaces;
mod sync;
mod sync_filters;
mod sync_lazy_loading;
mod sync_property;
mod sync_state;
mod test_server;
mod to_device;
mod unread_counts;
mod url_previews;
mod versions;
