//! One number for the memory of the whole process, and what each part gets of it.
//!
//! The program itself takes about 12 MB and one password hash 19 MiB; the shares below leave room
//! for both from 64M on.

use std::{fmt, fs, path::Path, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use super::Size;

const K: usize = 1024;
const M: usize = 1024 * K;

/// What an idle connection costs, measured: 27 KiB, with TLS 29 KiB.
const CONNECTION: usize = 32 * K;

/// How much memory the process may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(usize);

impl Memory {
    /// What a server gets that was not told otherwise.
    pub const DEFAULT: Self = Self(128 * M);
    /// With less, the shares are too small to work with.
    const LEAST: Self = Self(32 * M);

    /// Three quarters of what Linux allows the control group of this process (`MemoryMax` of a
    /// systemd unit, the limit of a container), or the default. The rest is for what the heap loses
    /// between its blocks and what the system keeps for our files and sockets; a group that takes
    /// more is killed.
    pub fn of_group() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        group_limit(&group, |path| fs::read_to_string(path).ok())
            .map_or(Self::DEFAULT, |limit| Self(limit / 4 * 3).max(Self::LEAST))
    }

    /// What the database may keep of its pages.
    pub fn database_cache(self) -> usize {
        self.0 / 8 * 3
    }

    /// How many connections are served at once, of all clients and servers together.
    pub fn connections(self) -> usize {
        (self.0 / 8 / CONNECTION).clamp(64, 8192)
    }

    /// How many bytes of request bodies are held at once.
    pub fn bodies(self) -> usize {
        self.0 / 16
    }

    /// What a picture may take up while it is made smaller, one at a time: its pixels, and what decoding
    /// them takes beside. No share is kept for that: it is taken from what is free of the others for a
    /// moment.
    pub fn picture(self) -> usize {
        self.0 / 8 * 3
    }

    /// How many clients' rates are remembered.
    pub fn rates(self) -> usize {
        // An entry takes about 64 bytes of the 1/128 that this is.
        self.0 / 128 / 64
    }
}

/// The least of the limits of a group and those around it: cgroups(7), version 2. `group` is what
/// `/proc/self/cgroup` says.
fn group_limit(group: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let path = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(path).ancestors().filter_map(|group| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        // Where there is no limit it says `max`.
        read(&file)?.trim().parse::<u64>().ok()
    });
    limits
        .min()
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

impl FromStr for Memory {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size: Size = text.parse()?;
        let memory = usize::try_from(size.bytes()).map_err(|_| "that is too much memory")?;
        let memory = Self(memory);
        if memory < Self::LEAST {
            return Err("the server needs at least 32M");
        }
        Ok(memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0 / M)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use super::{Memory, group_limit};

    #[test]
    fn memory_that_is_too_little_to_work_with_is_refused() {
        assert_eq!("1G".parse(), Ok(Memory(1 << 30)));
        "31M".parse::<Memory>().expect_err("too little");
    }

    #[test]
    fn the_narrowest_group_around_the_process_limits_it() {
        let limits = HashMap::from([
            ("/sys/fs/cgroup/system.slice/memory.max", "300000000\n"),
            (
                "/sys/fs/cgroup/system.slice/a.service/memory.max",
                "400000000\n",
            ),
            ("/sys/fs/cgroup/system.slice/b.service/memory.max", "max\n"),
            (
                "/sys/fs/cgroup/system.slice/c.service/memory.max",
                "200000000\n",
            ),
        ]);
        let read = |path: &Path| limits.get(path.to_str()?).map(ToString::to_string);
        for (group, limit) in [
            ("0::/system.slice/a.service\n", Some(300_000_000)),
            ("0::/system.slice/b.service\n", Some(300_000_000)),
            ("0::/system.slice/c.service\n", Some(200_000_000)),
            ("0::/user.slice\n", None),
            ("4:memory:/system.slice/c.service\n", None),
            ("", None),
        ] {
            assert_eq!(group_limit(group, read), limit, "{group}");
        }
    }

    #[test]
    fn the_shares_leave_room_for_the_program_and_one_password() {
        const PROGRAM: usize = 12 << 20;
        const PASSWORD: usize = 19 << 20;
        for text in ["64M", "128M", "1G"] {
            let memory: Memory = text.parse().unwrap();
            let shares = memory.database_cache()
                + memory.connections() * super::CONNECTION
                + memory.bodies()
                + memory.rates() * 64;
            assert!(
                shares + PROGRAM + PASSWORD <= memory.0 + (4 << 20),
                "{text}"
            );
        }
    }
}
