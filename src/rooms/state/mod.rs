//! State before an event and current state, and what it says.

pub mod content;
pub mod current;
pub mod overlay;
pub mod power_levels;
pub mod resolution;
pub mod server_acl;
pub mod tree;

pub use self::tree::{
    differing_keys, entries, get, get_named, key_count, key_name, key_num, key_num_or_new, set,
};
