//! Instructions of the server, where `cross/count` runs it in an emulator that counts them.

use std::{env, fs, io};

/// The file in which `cross/count` has the number of instructions.
const INSTRUCTIONS: &str = "HEARTH_INSTRUCTIONS";

/// Whether the server runs in an emulator that counts instructions.
pub fn are_counted() -> bool {
    env::var_os(INSTRUCTIONS).is_some()
}

/// Instructions of all threads since the start of the process, where they are counted.
pub fn executed() -> io::Result<u64> {
    let file = env::var_os(INSTRUCTIONS).unwrap_or_default();
    let count = fs::read(file)?.try_into();
    let count = count.map_err(|_| io::Error::other("the file of instructions holds no number"))?;
    Ok(u64::from_ne_bytes(count))
}
