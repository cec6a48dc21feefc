//! Memory, I/O and CPU time of a process, and the size of its files, from Linux.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// The unit of CPU time in `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// In bytes.
pub fn resident_memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024)
}

/// Bytes that the process has written to storage since it started.
pub fn written_bytes(pid: u32) -> io::Result<u64> {
    let account = fs::read_to_string(format!("/proc/{pid}/io"))?;
    field(&account, "write_bytes:")
}

/// CPU time of all threads since the start of the process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The fields follow the program's name, which is in parentheses and may contain any characters.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok());
    Ok(TICK * ticks.sum::<u32>())
}

/// Disk space of the files below a directory, in bytes.
pub fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() {
            allocated_bytes(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(total)
}

/// The number after `name` in a file of `/proc/PID`.
pub fn field(text: &str, name: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no {name} in {text}")))
}
