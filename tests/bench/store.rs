//! Benchmarks of the store alone: `cargo bench --bench store`, or `cargo bench --bench store -- open`
//! for one of them. `src/store/README.md` has the results by which the store's constants were chosen.

#[path = "process.rs"]
mod process;

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hearth::{
    pool::Pool,
    store::{
        DeviceNum, Effect, Error, EventNum, NodeNum, Options, Place, Reader, RoomNum, Rows,
        Snapshot, Store, Tx,
        records::{Counts, RoomHeads, TimelineRow, Transaction},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use smol::{LocalExecutor, Timer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CACHE: usize = 32 << 20;
const ROOMS: u32 = 10;
/// JSON of a text message with hashes and signature.
const EVENT_BYTES: usize = 900;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            messages();
            memory();
            open();
        }
        ["messages"] => messages(),
        ["memory"] => memory(),
        ["open"] => open(),
        // For processes that the benchmarks start.
        ["resident", directory, cache] => {
            resident(Path::new(directory), cache.parse().expect("bytes"));
        }
        ["load", directory] => write_until_killed(Path::new(directory), false),
        ["idle", directory] => write_until_killed(Path::new(directory), true),
        ["open-time", directory] => open_time(Path::new(directory)),
        _ => panic!("the benchmarks are `messages`, `memory` and `open`"),
    }
}

/// A job that writes as much as a message does: a row in each of five tables, and a position.
fn message_job(seed: u64, sender: u32) -> impl Fn(&Tx) -> Result<(), Error> + Send + 'static {
    let mut rng = StdRng::seed_from_u64(seed);
    let room = RoomNum(rng.random_range(1..=ROOMS));
    let json: Vec<u8> = (0..EVENT_BYTES).map(|_| rng.random()).collect();
    let id: String = (0..44)
        .map(|_| char::from(b'A' + rng.random_range(0..26)))
        .collect();
    move |tx| {
        let event = tx.next_event()?;
        let position = tx.next_position()?;
        tx.events()?.insert(event, &*json)?;
        tx.event_nums()?.insert(&*id, event)?;
        let place = Place(Place::FIRST.0 + event.0);
        let row = TimelineRow {
            event,
            position,
            main: Counts::default(),
            thread: None,
        };
        tx.timeline()?.put((room, place), &row)?;
        let heads = RoomHeads {
            extremities: vec![event],
            depth: event.0,
            last_place: place,
            last_position: position,
            state_position: position,
            state: NodeNum(1),
            joined: 20,
            invited: 0,
            main: Counts::default(),
            last_own_events: Vec::new(),
        };
        tx.room_heads()?.put(room, &heads)?;
        let transaction = Transaction { event, ts: 0 };
        tx.transactions()?
            .put((DeviceNum(sender), &*format!("m{seed}")), &transaction)?;
        tx.effect(Effect::RoomChanged(room, position));
        Ok(())
    }
}

fn with_store<T>(directory: &Path, cache: usize, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let options = Options {
        directory: directory.to_owned(),
        cache,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let result = work(&store).await;
        store.close().await;
        publishing.await;
        result
    }))
}

/// `target` must be on a disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Writes `count` messages concurrently.
async fn fill(store: &Store, from: u64, count: u64) {
    let next = Cell::new(from);
    let next = &next;
    let writers = LocalExecutor::new();
    let tasks: Vec<_> = (0..200)
        .map(|sender| {
            writers.spawn(async move {
                while next.get() < from + count {
                    next.set(next.get() + 1);
                    let job = message_job(next.get(), sender);
                    store.write(job).await.expect("written");
                }
            })
        })
        .collect();
    writers
        .run(async {
            for task in tasks {
                task.await;
            }
        })
        .await;
}

/// Written bytes and response time per message, by the number of senders and the pause between
/// messages of one sender.
fn messages() {
    println!(
        "{:>9} {:>8} {:>8} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "stored", "senders", "pause", "bytes/msg", "msgs/s", "median", "99 %", "CPU/msg"
    );
    for stored in [1_000, 100_000] {
        let directory = directory();
        let mut seed = 0;
        with_store(directory.path(), CACHE, async |store| {
            fill(store, seed, stored).await;
            seed += 10 * stored;
            for (senders, pause) in [
                (1, 0),
                (1, 100),
                (3, 30),
                (20, 0),
                (20, 2),
                (20, 10),
                (20, 30),
                (20, 100),
                (20, 1000),
            ] {
                let pause = Duration::from_millis(pause);
                let measured = send(store, &mut seed, senders, pause).await;
                println!("{stored:>9} {senders:>8} {pause:>8.0?} {measured}");
            }
        });
    }
}

async fn send(store: &Store, seed: &mut u64, senders: u32, pause: Duration) -> String {
    let latencies = RefCell::new(Vec::new());
    let started = Instant::now();
    let end = started + Duration::from_secs(4);
    let (written, cpu) = (written_bytes(), cpu());
    let writers = LocalExecutor::new();
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            *seed += 1_000_000;
            let (mut seed, latencies) = (*seed, &latencies);
            writers.spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed);
                while Instant::now() < end {
                    seed += 1;
                    let begin = Instant::now();
                    store
                        .write(message_job(seed, sender))
                        .await
                        .expect("written");
                    latencies.borrow_mut().push(begin.elapsed());
                    // Senders are not synchronized.
                    Timer::after(pause.mul_f64(rng.random_range(0.5..1.5))).await;
                }
            })
        })
        .collect();
    writers
        .run(async {
            for task in tasks {
                task.await;
            }
        })
        .await;
    drop(writers);
    let mut latencies = latencies.into_inner();
    latencies.sort();
    let per_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
    let bytes = (self::written_bytes() - written) / latencies.len() as u64;
    let cpu = (self::cpu() - cpu).div_f64(latencies.len() as f64);
    let median = latencies[latencies.len() / 2];
    let slow = latencies[latencies.len() * 99 / 100];
    format!("{bytes:>12} {per_second:>9.0} {median:>9.1?} {slow:>9.1?} {cpu:>9.0?}")
}

fn written_bytes() -> u64 {
    process::written_bytes(std::process::id()).expect("/proc can be read")
}

fn cpu() -> Duration {
    process::cpu_time(std::process::id()).expect("/proc can be read")
}

/// Resident memory of a busy store, by the size of its cache.
fn memory() {
    println!("{:>12} {:>12} {:>12}", "cache", "idle", "busy");
    let directory = directory();
    with_store(directory.path(), CACHE, async |store| {
        fill(store, 0, 200_000).await
    });
    for cache in [4, 12, 24, 48, 96] {
        let cache = (cache << 20).to_string();
        println!("{}", child("resident", directory.path(), &[&cache]));
    }
}

/// Reads all events and event ids once, then writes messages.
fn resident(directory: &Path, cache: usize) {
    let resident = || process::resident_memory(std::process::id()).expect("/proc can be read");
    let idle = with_store(directory, cache, async |_| resident());
    let busy = with_store(directory, cache, async |store| {
        let scan = |s: &Snapshot| {
            for row in s.events()?.range::<EventNum>(..)? {
                row?;
            }
            for row in s.event_nums()?.range::<&str>(..)? {
                row?;
            }
            Ok::<_, Error>(())
        };
        store.read(scan).expect("read");
        fill(store, u64::from(std::process::id()) << 32, 20_000).await;
        resident()
    });
    println!("{cache:>12} {idle:>12} {busy:>12}");
}

/// How long opening takes after SIGKILL, by size, under load and when idle.
fn open() {
    println!(
        "{:>12} {:>10} {:>10} {:>10}   (cold: not in the page cache)",
        "bytes", "killed", "warm", "cold"
    );
    let directory = directory();
    let mut seed = 0;
    for size in [100_000_000, 1_000_000_000] {
        with_store(directory.path(), CACHE, async |store| {
            while process::allocated_bytes(directory.path()).expect("readable") < size {
                fill(store, seed, 10_000).await;
                seed += 10_010;
            }
        });
        let bytes = process::allocated_bytes(directory.path()).expect("readable");
        let closed = child("open-time", directory.path(), &[]);
        println!("{bytes:>12} {:>10} {closed:>10}", "no");
        for mode in ["load", "idle"] {
            let [warm, cold] = [false, true].map(|cold| {
                kill(mode, directory.path());
                if cold {
                    drop_page_cache(directory.path());
                }
                child("open-time", directory.path(), &[])
            });
            println!("{bytes:>12} {mode:>10} {warm:>10} {cold:>10}");
        }
    }
}

/// Starts a process in `mode` and kills it as soon as it prints something.
fn kill(mode: &str, directory: &Path) {
    let mut process = command(mode, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut output = [0];
    let mut stdout = process.stdout.take().expect("piped");
    stdout.read_exact(&mut output).expect("some output");
    process.kill().expect("killed");
    process.wait().expect("ended");
}

/// Writes for a second and prints a line when it is to be killed: while it goes on writing, or after
/// some idle time.
fn write_until_killed(directory: &Path, idle: bool) {
    with_store(directory, CACHE, async |store| {
        let mut seed = u64::from(std::process::id()) << 32;
        let start = Instant::now();
        let mut printed = false;
        loop {
            fill(store, seed, 100).await;
            seed += 1000;
            if !printed && start.elapsed() > Duration::from_secs(1) {
                printed = true;
                if idle {
                    Timer::after(Duration::from_secs(4)).await;
                }
                println!("ready to be killed");
                if idle {
                    std::future::pending::<()>().await;
                }
            }
        }
    });
}

fn open_time(directory: &Path) {
    let start = Instant::now();
    let duration = with_store(directory, CACHE, async |_| start.elapsed());
    println!("{duration:.0?}");
}

fn drop_page_cache(directory: &Path) {
    let file = File::open(directory.join("hearth.redb")).expect("the database");
    file.sync_all().expect("synced");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .expect("dropped from the page cache");
}

fn command(mode: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    // As `main.rs` sets it.
    command.env("MIMALLOC_PURGE_DELAY", "0");
    command.arg(mode).arg(directory);
    command
}

/// Runs this program in `mode`; returns its output.
fn child(mode: &str, directory: &Path, arguments: &[&str]) -> String {
    let output = command(mode, directory)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "`{mode}` failed");
    let text = String::from_utf8(output.stdout).expect("text");
    text.trim().to_owned()
}
