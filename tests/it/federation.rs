//! Several servers that federate.

mod device_lists;
mod devices;
mod directory;
mod join;
mod keys;
mod list_fetches;
mod media;
mod outage;
mod peer;
mod profiles;
mod rest;
mod restricted;
mod spaces;
mod third_party;
mod times;
mod to_device;
mod user_keys;
