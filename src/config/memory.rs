//! The memory budget of the process and the shares of its parts.
//!
//! The program itself needs about 12 MB and one password hash 19 MiB; from 64M on the shares leave
//! enough for both.

use std::{fmt, fs, path::Path, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use super::Size;

const K: usize = 1024;
const M: usize = 1024 * K;

/// Measured for an idle connection: 27 KiB, with TLS 29 KiB.
const CONNECTION_BYTES: usize = 32 * K;

/// Measured for one event of a room that is being joined.
const JOINED_ID_BYTES: usize = 160;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(usize);

impl Memory {
    pub const DEFAULT: Self = Self(128 * M);
    const MIN: Self = Self(32 * M);

    /// Three quarters of the limit of this process's control group (`MemoryMax` of a systemd unit, the
    /// limit of a container), or the default. The rest is for fragmentation of the heap and for the
    /// kernel's memory for files and sockets: the kernel kills a group that uses more.
    pub fn of_cgroup() -> Self {
        Self::limit_of_cgroup().map_or(Self::DEFAULT, |limit| Self(limit / 4 * 3).max(Self::MIN))
    }

    /// The limit of this process's control group, in bytes.
    pub fn limit_of_cgroup() -> Option<usize> {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        group_limit(&group, |path| fs::read_to_string(path).ok())
    }

    /// All of it, in bytes.
    pub fn bytes(self) -> usize {
        self.0
    }

    /// For the database's page cache, in bytes.
    pub fn database_cache(self) -> usize {
        self.0 / 8 * 3
    }

    /// The maximum number of connections.
    pub fn connections(self) -> usize {
        (self.0 / 8 / CONNECTION_BYTES).clamp(64, 8192)
    }

    /// For the bodies of requests, in bytes.
    pub fn bodies(self) -> usize {
        self.0 / 16
    }

    /// For what clients have not accepted yet of responses, in bytes. Like pictures, it uses what is free: a
    /// client that reads accepts a response at once.
    pub fn unsent(self) -> usize {
        self.0 / 8
    }

    /// For the bodies of responses of other servers, in bytes. Like pictures, they use what is free.
    pub fn responses(self) -> usize {
        self.0 / 8
    }

    /// For decoding and scaling one image, in bytes. It is not a share of its own: it uses for a moment
    /// what is free of the others.
    pub fn picture(self) -> usize {
        self.0 / 8 * 3
    }

    /// How many events rooms that are being joined may have. Like pictures, they use what is free.
    pub fn joined_ids(self) -> usize {
        self.0 / 4 / JOINED_ID_BYTES
    }

    /// How many events auth chains that are being fetched may have. Like pictures, they use what is free.
    pub fn auth_chain_ids(self) -> usize {
        self.0 / 16 / JOINED_ID_BYTES
    }

    /// The maximum number of rate limit buckets.
    pub fn rates(self) -> usize {
        // An entry takes about 64 bytes of the 1/128 that this is.
        self.0 / 128 / 64
    }
}

/// The lowest limit of a control group and its ancestors: cgroups(7), version 2. `group` is the content
/// of `/proc/self/cgroup`.
fn group_limit(group: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    let path = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(path).ancestors().filter_map(|group| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        // `max` if there is no limit.
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
        if memory < Self::MIN {
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
    fn memory_below_the_minimum_is_refused() {
        assert_eq!("1G".parse(), Ok(Memory(1 << 30)));
        "31M".parse::<Memory>().expect_err("too little");
    }

    #[test]
    fn the_lowest_limit_of_all_ancestor_groups_counts() {
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
    fn the_shares_leave_memory_for_the_program_and_one_password_hash() {
        const PROGRAM: usize = 12 << 20;
        const PASSWORD: usize = 19 << 20;
        for text in ["64M", "128M", "1G"] {
            let memory: Memory = text.parse().unwrap();
            let shares = memory.database_cache()
                + memory.connections() * super::CONNECTION_BYTES
                + memory.bodies()
                + memory.rates() * 64;
            assert!(
                shares + PROGRAM + PASSWORD <= memory.0 + (4 << 20),
                "{text}"
            );
        }
    }
}
