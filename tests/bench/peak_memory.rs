//! Peak resident memory of a process.

use std::{fs, io};

use crate::process::field;

/// In bytes, since the start of the process or since [`reset`].
pub fn peak(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, "VmHWM:").map(|kilobytes| kilobytes * 1024)
}

/// proc(5), `clear_refs`.
pub fn reset(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}
