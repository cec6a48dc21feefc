//! States of a room: the current one, the ones before events, and resolving several to one.

pub mod content;
pub mod current;
pub mod overlay;
pub mod power_levels;
pub mod resolution;
pub mod tree;

pub use self::tree::{
    differing_keys, entries, get, get_named, key_count, key_name, key_num, key_num_or_new, set,
};
