//! The machine: disk, memory and how the server is run.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use super::finding::Finding;
use crate::{
    config::{Memory, Size},
    store::{self, Space},
};

const DISK: &str = "disk";
const MEMORY: &str = "memory";
const SERVICE: &str = "service";
const TRIAL_FILE: &str = "doctor.tmp";
const TRIAL_WRITES: usize = 8;
const TRIAL_WRITE_BYTES: usize = 64 * 1024;
/// Each message that is sent waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(250);

/// How long it takes until a small write is durable in `directory`, mostly. Blocks.
pub(super) fn measure_sync(directory: &Path) -> io::Result<Duration> {
    let path = directory.join(TRIAL_FILE);
    let mut file = store::create_anew(&path)?;
    // Whatever happens now, no file is left.
    fs::remove_file(path)?;
    write_trials(&mut file)
}

fn write_trials(file: &mut File) -> io::Result<Duration> {
    let chunk = vec![0x55; TRIAL_WRITE_BYTES];
    let mut times = Vec::new();
    for _ in 0..TRIAL_WRITES {
        let start = Instant::now();
        file.write_all(&chunk)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[TRIAL_WRITES / 2])
}

/// `sync` is from [`measure_sync`].
pub(super) fn check_disk(
    space: io::Result<Space>,
    sync: Option<io::Result<Duration>>,
) -> Vec<Finding> {
    let space = match space {
        Ok(space) => space,
        Err(error) => {
            return vec![Finding::error(
                DISK,
                format!("The disk of `data_dir` cannot be looked at: {error}."),
                "Check that it is mounted.",
            )];
        }
    };
    let free = Size::from(space.free);
    let mut findings = Vec::new();
    if space.is_scarce() {
        findings.push(Finding::error(
            DISK,
            format!("The disk of `data_dir` has only {free} left, so that nothing new is accepted."),
            "Make room on it: `hearth media usage` shows how much media use, and `disk` limits cached media.",
        ));
    } else if space.free < space.reserve().saturating_mul(2) {
        findings.push(Finding::warning(
            DISK,
            format!("The disk of `data_dir` has {free} left; below {} nothing new is accepted.",
                Size::from(space.reserve())),
            "Make room on it: `hearth media usage` shows how much media use, and `disk` limits cached media.",
        ));
    }
    match sync {
        Some(Err(error)) => findings.push(Finding::error(
            DISK,
            format!("A file cannot be written to `data_dir`: {error}."),
            "Check the disk, and that the directory belongs to the user whom hearth runs as.",
        )),
        Some(Ok(time)) if time > SLOW_SYNC => findings.push(Finding::warning(
            DISK,
            format!(
                "The disk takes {} ms until a write is durable; each message waits that long.",
                time.as_millis()
            ),
            "Use another card or an SSD, or find out what else writes to this one.",
        )),
        Some(Ok(time)) if findings.is_empty() => findings.push(Finding::ok(
            DISK,
            format!(
                "{free} are free, and a write is durable after {} ms.",
                time.as_millis()
            ),
        )),
        _ => {}
    }
    findings
}

/// `limit` is that of the control group, `total` the memory of the machine.
pub(super) fn check_memory(memory: Memory, limit: Option<u64>, total: Option<u64>) -> Finding {
    let budget = memory.bytes() as u64;
    // See `Memory::of_cgroup`.
    let needed = budget.saturating_add(budget / 3);
    let words = |bytes: u64| Size::from(bytes).to_string();
    match (limit, total) {
        (Some(limit), _) if limit < needed => Finding::warning(
            MEMORY,
            format!(
                "The kernel ends hearth at {}, and `memory` is {memory}.",
                words(limit)
            ),
            format!(
                "Set `memory` to at most three quarters of the limit, or the limit (`MemoryMax` of the unit, \
                 or that of the container) to {}.",
                words(needed)
            ),
        ),
        (_, Some(total)) if total < needed => Finding::warning(
            MEMORY,
            format!(
                "This machine has {}, and `memory` is {memory}.",
                words(total)
            ),
            "Set `memory` to at most half of what the machine has.",
        ),
        (Some(limit), _) => Finding::ok(
            MEMORY,
            format!("`memory` is {memory}, of a limit of {}.", words(limit)),
        ),
        (None, _) => Finding::ok(
            MEMORY,
            format!("`memory` is {memory}, without another limit."),
        ),
    }
}

/// All memory of the machine: proc(5). The sandbox of the unit hides it, where the limit of the group counts.
pub(super) fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How this process is run.
pub(super) struct Process {
    pub is_root: bool,
    pub is_unit: bool,
    pub is_contained: bool,
    pub may_gain_privileges: bool,
}

impl Process {
    pub fn current() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is_contained = ["/.dockerenv", "/run/.containerenv"];
        Self {
            is_root: rustix::process::geteuid().is_root(),
            is_unit: is_unit(),
            is_contained: is_contained.iter().any(|path| Path::new(path).exists()),
            may_gain_privileges: status.lines().any(|line| line == "NoNewPrivs:\t0"),
        }
    }
}

/// Whether this process itself was started by systemd, and not from a desktop or shell that was: those pass on
/// their variables. Before systemd 248 there is no process id among them.
fn is_unit() -> bool {
    match env::var("SYSTEMD_EXEC_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => env::var_os("INVOCATION_ID").is_some(),
    }
}

pub(super) fn check_service(process: &Process) -> Finding {
    const UNIT: &str = "Use the unit of `systemd/`: it restarts hearth, and what breaks into hearth gets no further.";
    if process.is_root && !process.is_contained {
        return Finding::warning(SERVICE, "hearth runs as root.", UNIT);
    }
    match (
        process.is_contained,
        process.is_unit,
        process.may_gain_privileges,
    ) {
        (true, ..) => Finding::ok(SERVICE, "hearth runs in a container."),
        (_, true, false) => Finding::ok(SERVICE, "hearth runs as a unit with a sandbox."),
        (_, true, true) => {
            Finding::warning(SERVICE, "hearth runs as a unit without a sandbox.", UNIT)
        }
        (_, false, _) => Finding::warning(
            SERVICE,
            "hearth was not started by systemd or a container, so that nobody starts it again.",
            UNIT,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, os::unix::fs::symlink, time::Duration};

    use super::{Process, TRIAL_FILE, check_disk, check_memory, check_service, measure_sync};
    use crate::{doctor::finding::State, store::Space};

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_full_disk_a_broken_one_and_a_slow_one_are_named() {
        let space = |free| {
            Ok(Space {
                total: 100 * GIB,
                free,
            })
        };
        let fast = || Some(Ok(Duration::from_millis(3)));
        let state = |space, sync| {
            let findings = check_disk(space, sync);
            findings.iter().map(|finding| finding.state).max().unwrap()
        };
        assert_eq!(state(space(50 * GIB), fast()), State::Ok);
        assert_eq!(state(space(3 * GIB / 2), fast()), State::Warning);
        assert_eq!(state(space(GIB / 2), None), State::Error);
        let slow = Some(Ok(Duration::from_millis(400)));
        assert_eq!(state(space(50 * GIB), slow), State::Warning);
        let broken = Some(Err(io::ErrorKind::ReadOnlyFilesystem.into()));
        assert_eq!(state(space(50 * GIB), broken), State::Error);
    }

    #[test]
    fn measuring_the_disk_follows_no_link_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        let data_dir = directory.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        symlink(&elsewhere, data_dir.join(TRIAL_FILE)).unwrap();
        measure_sync(&data_dir).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);
        fs::write(data_dir.join(TRIAL_FILE), "left over").unwrap();
        measure_sync(&data_dir).unwrap();
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);
    }

    #[test]
    fn the_limit_of_the_group_needs_more_than_the_budget() {
        let memory = "96M".parse().unwrap();
        let state = |limit, total| check_memory(memory, limit, total).state;
        assert_eq!(state(Some(128 << 20), Some(GIB)), State::Ok);
        assert_eq!(state(Some(100 << 20), Some(GIB)), State::Warning);
        assert_eq!(state(None, Some(100 << 20)), State::Warning);
        assert_eq!(state(None, None), State::Ok);
    }

    #[test]
    fn a_server_without_a_sandbox_is_named() {
        let unit = Process {
            is_root: false,
            is_unit: true,
            is_contained: false,
            may_gain_privileges: false,
        };
        let root = Process {
            is_root: true,
            ..unit
        };
        let bare = Process {
            may_gain_privileges: true,
            ..unit
        };
        let contained = Process {
            is_contained: true,
            is_root: true,
            ..unit
        };
        let by_hand = Process {
            is_unit: false,
            ..unit
        };
        for (process, state) in [
            (&unit, State::Ok),
            (&root, State::Warning),
            (&bare, State::Warning),
            (&contained, State::Ok),
            (&by_hand, State::Warning),
        ] {
            assert_eq!(check_service(process).state, state);
        }
    }
}
