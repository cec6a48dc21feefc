//! What Linux tells about a process, its files and the machine's time.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// Linux counts CPU time for user space in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory in bytes.
pub fn resident(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024)
}

/// Bytes that the process has caused to be written to storage since it started.
pub fn written(process: u32) -> io::Result<u64> {
    let account = fs::read_to_string(format!("/proc/{process}/io"))?;
    field(&account, "write_bytes:")
}

/// CPU time that all threads of the process have used since it started.
pub fn cpu(process: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The fields follow the program's name, which is in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok());
    Ok(TICK * ticks.sum::<u32>())
}

/// Bytes that the files below a directory take up on the disk.
pub fn allocated(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() {
            allocated(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(total)
}

/// The number that `text`, as Linux writes it, has for `name`.
pub fn field(text: &str, name: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no {name} in {text}")))
}
