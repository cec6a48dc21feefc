//! Several servers that federate.

mod backoff;
mod blocked_rooms;
mod device_list_resync;
mod device_lists;
mod device_queries;
mod directory;
mod e2ee_keys;
mod edus;
mod join;
mod media;
mod mock_server;
mod numbers;
mod origins;
mod outage;
mod policy_servers;
mod profiles;
mod relations;
mod restricted_joins;
mod server_keys;
mod sliding_sync;
mod spaces;
mod third_party_invites;
mod timestamp_to_event;
mod to_device;
mod unsent_memberships;
