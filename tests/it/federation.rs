//! Several servers that federate.

mod directory;
mod profiles;
