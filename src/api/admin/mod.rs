//! What tools of the field ask of a server, under the paths that Synapse gave it.

pub mod shared_secret;
