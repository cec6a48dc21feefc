//! The most memory that a process has had, as Linux tells it.

use std::{fs, io};

use crate::process::field;

/// The most resident memory that there has been since the start, or since it was forgotten, in bytes.
pub fn of(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    field(&status, "VmHWM:").map(|kilobytes| kilobytes * 1024)
}

/// From now on the peak is counted again.
pub fn forget(process: u32) -> io::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5")
}
