//! What happens to jobs: the good, those that fail, and those that nobody waits for.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use smol::{LocalExecutor, Timer, channel, future::poll_once};

use super::{
    Applied, Error, database, in_time, note, noted, on_purpose, options, put, run, with_store,
    with_store_in,
};
use crate::{
    pool::Pool,
    store::{Effect, Position, Reader, RoomNum, Rows, Store, Tx},
};

type Job<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// Has all of `jobs` run in one transaction, behind one that keeps the writer busy while they
/// queue up, and returns their answers.
async fn together<const N: usize>(store: &Store, jobs: [Job<'_>; N]) -> [Result<(), Error>; N] {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (start, started) = mpsc::channel::<()>();
    let mut hold = pin!(store.write(move |_| {
        let _ = start.send(());
        // The end of the channel is what is waited for.
        let _ = released.lock().expect("one writer").recv();
        Ok::<_, Error>(())
    }));
    assert!(poll_once(hold.as_mut()).await.is_none());
    // Else it could be in one transaction with some of them.
    started.recv().expect("it runs");
    let mut queued = Vec::new();
    for mut job in jobs {
        assert!(poll_once(job.as_mut()).await.is_none(), "the writer holds");
        queued.push(job);
    }
    drop(release);
    hold.await.expect("held");
    let mut answers = Vec::new();
    for job in queued {
        answers.push(in_time(job).await);
    }
    answers.try_into().expect("as many answers as jobs")
}

fn job<'a>(store: &'a Store, job: impl Fn(&Tx) -> Result<(), Error> + Send + 'static) -> Job<'a> {
    Box::pin(store.write(job))
}

#[test]
fn a_job_that_fails_after_writing_leaves_nothing_and_the_others_are_committed() {
    with_store(async |store, _| {
        let fails = |tx: &Tx| {
            put(tx, "of the one that fails")?;
            Err(on_purpose())
        };
        let jobs = [
            job(store, note("before")),
            job(store, fails),
            job(store, note("between")),
            job(store, fails),
            job(store, note("behind")),
        ];
        let answers = together(store, jobs).await;
        let succeeded: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(succeeded, [true, false, true, false, true]);
        assert!(matches!(answers[1], Err(Error::Corrupt(_))));
        assert!(noted(store, "before") && noted(store, "between") && noted(store, "behind"));
        assert!(!noted(store, "of the one that fails"));
    });
}

#[test]
fn a_job_that_panics_after_writing_leaves_nothing_and_the_others_are_committed() {
    with_store(async |store, _| {
        let panics = |tx: &Tx| {
            put(tx, "of the one that panics")?;
            panic!("on purpose, with a table changed");
        };
        let panics_holding_a_table = |tx: &Tx| {
            let mut facts = tx.facts()?;
            facts.insert("held", "open")?;
            panic!("on purpose, with a table open");
        };
        let jobs = [
            job(store, note("before")),
            job(store, panics),
            job(store, panics_holding_a_table),
            job(store, note("behind")),
        ];
        let answers = together(store, jobs).await;
        assert!(matches!(answers[0], Ok(())));
        assert!(matches!(answers[1], Err(Error::Panicked)));
        assert!(matches!(answers[2], Err(Error::Panicked)));
        assert!(matches!(answers[3], Ok(())));
        assert!(noted(store, "before") && noted(store, "behind"));
        assert!(!noted(store, "of the one that panics") && !noted(store, "held"));
    });
}

#[test]
fn a_job_that_panics_without_a_write_does_not_abort_the_others() {
    with_store(async |store, _| {
        let panics = |tx: &Tx| {
            let facts = tx.facts()?;
            assert!(!facts.has("before")?, "on purpose, with a table open");
            Ok(())
        };
        let jobs = [
            job(store, note("before")),
            job(store, panics),
            job(store, note("behind")),
        ];
        let answers = together(store, jobs).await;
        assert!(matches!(answers[1], Err(Error::Panicked)));
        assert!(noted(store, "before") && noted(store, "behind"));
    });
}

#[test]
fn numbers_and_effects_of_a_failed_job_are_rolled_back() {
    with_store(async |store, applied| {
        let counts = |tx: &Tx| {
            let position = tx.next_position()?;
            let user = tx.user_num("@somebody:here")?;
            tx.effect(Effect::UserChanged(user, position));
            Err(on_purpose())
        };
        let first = |tx: &Tx| {
            tx.effect(Effect::RoomChanged(RoomNum(1), tx.next_position()?));
            put(tx, "first")
        };
        let last = |tx: &Tx| {
            tx.effect(Effect::RoomChanged(RoomNum(2), tx.next_position()?));
            assert_eq!(tx.user_num("@other:here")?.0, 1);
            Ok(())
        };
        let jobs = [job(store, first), job(store, counts), job(store, last)];
        let answers = together(store, jobs).await;
        assert!(answers[1].is_err() && answers[2].is_ok());
        let expected = [
            Effect::RoomChanged(RoomNum(1), Position(1)),
            Effect::RoomChanged(RoomNum(2), Position(2)),
        ];
        assert_eq!(applied.all(), expected);
        let somebody = store.read(|s| s.user_nums()?.has("@somebody:here"));
        assert!(!somebody.expect("read"));
    });
}

#[test]
fn a_job_that_fails_on_its_second_run_gets_its_error() {
    with_store(async |store, _| {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let moody = move |tx: &Tx| {
            put(tx, "moody")?;
            match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(on_purpose()),
            }
        };
        let fails = |tx: &Tx| {
            put(tx, "fails")?;
            Err(on_purpose())
        };
        let jobs = [
            job(store, note("before")),
            job(store, moody),
            job(store, note("between")),
            job(store, fails),
            job(store, note("behind")),
        ];
        let answers = together(store, jobs).await;
        let succeeded: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(succeeded, [true, false, true, false, true]);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert!(noted(store, "before") && noted(store, "between") && noted(store, "behind"));
        assert!(!noted(store, "moody") && !noted(store, "fails"));
    });
}

#[test]
fn effects_are_applied_in_commit_order_after_their_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&options(directory.path()), Pool::default()).expect("it opens");
    let shown = store.clone();
    let check = move |effects: &[Effect]| {
        for effect in effects {
            let Effect::RoomChanged(room, _) = effect else {
                continue;
            };
            let fact = format!("room {}", room.0);
            assert!(noted(&shown, &fact), "{fact} is not in the snapshot yet");
        }
    };
    let applied = Applied::checked(check);
    run(store, &applied, async |store| {
        let mut jobs: Vec<_> = (0..50)
            .map(|n| {
                Box::pin(store.write(move |tx| {
                    tx.effect(Effect::RoomChanged(RoomNum(n), tx.next_position()?));
                    put(tx, &format!("room {n}"))
                }))
            })
            .collect();
        for (n, job) in jobs.iter_mut().enumerate() {
            // All are queued in this order, in several commits.
            let _ = poll_once(job.as_mut()).await;
            if n % 10 == 9 {
                Timer::after(Duration::from_millis(5)).await;
            }
        }
        for job in jobs {
            let _ = in_time(job).await;
        }
    });
    let rooms: Vec<u32> = applied
        .all()
        .iter()
        .map(|effect| match effect {
            Effect::RoomChanged(room, _) => room.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rooms, (0..50).collect::<Vec<_>>());
}

#[test]
fn who_wrote_goes_on_before_who_is_woken_by_an_effect() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&options(directory.path()), Pool::default()).expect("it opens");
    let executor = LocalExecutor::new();
    let (wake, woken) = channel::unbounded::<()>();
    let (log, order) = channel::unbounded();
    let publishing = store.clone().publish(move |effects| {
        if !effects.is_empty() {
            wake.try_send(()).expect("somebody waits");
        }
    });
    let publishing = executor.spawn(publishing);
    let log_woken = log.clone();
    let waiting = executor.spawn(async move {
        woken.recv().await.expect("it is woken");
        log_woken.try_send("woken").expect("an open log");
    });
    let writer = store.clone();
    let writing = executor.spawn(async move {
        let job = |tx: &Tx| {
            tx.effect(Effect::RoomChanged(RoomNum(7), tx.next_position()?));
            put(tx, "written")
        };
        writer.write(job).await.expect("written");
        log.try_send("answered").expect("an open log");
    });
    smol::block_on(executor.run(async {
        writing.await;
        waiting.await;
        store.close().await;
        publishing.await;
    }));
    let order: Vec<_> = std::iter::from_fn(|| order.try_recv().ok()).collect();
    assert_eq!(order, ["answered", "woken"]);
}

#[test]
fn a_job_runs_when_its_caller_stops_waiting() {
    with_store(async |store, applied| {
        let effect = Effect::RoomChanged(RoomNum(7), Position(1));
        {
            let mut job = pin!(store.write(move |tx| {
                tx.effect(effect);
                put(tx, "left alone")
            }));
            assert!(poll_once(job.as_mut()).await.is_none());
        }
        // What is queued behind it is answered behind it.
        store.write(note("behind")).await.expect("written");
        assert!(noted(store, "left alone"));
        assert_eq!(applied.all(), [effect]);
    });
}

#[test]
fn a_deferrable_job_is_committed_with_the_next_job() {
    with_store(async |store, _| {
        let mut waits = pin!(store.write_deferred(note("soon")));
        assert!(poll_once(waits.as_mut()).await.is_none());
        Timer::after(Duration::from_millis(100)).await;
        assert!(poll_once(waits.as_mut()).await.is_none());
        assert!(!noted(store, "soon"), "it was committed alone");
        store.write(note("now")).await.expect("written");
        let answer = poll_once(waits.as_mut()).await;
        assert!(answer.expect("answered with the other").is_ok());
        assert!(noted(store, "soon"));
    });
}

#[test]
fn a_deferrable_job_waits_a_second_at_most() {
    with_store(async |store, _| {
        let start = Instant::now();
        store.write_deferred(note("soon")).await.expect("written");
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(900), "{waited:?}");
        assert!(waited < Duration::from_secs(3), "{waited:?}");
    });
}

#[test]
fn a_job_queued_after_the_close_fails() {
    with_store(async |store, _| {
        let mut hold = pin!(store.write(|_| {
            std::thread::sleep(Duration::from_millis(50));
            Ok::<_, Error>(())
        }));
        assert!(poll_once(hold.as_mut()).await.is_none());
        let mut close = pin!(store.close());
        assert!(poll_once(close.as_mut()).await.is_none());
        let late = in_time(store.write(note("late"))).await;
        assert!(matches!(late, Err(Error::Closed)));
        in_time(close).await;
        in_time(hold).await.expect("what was queued before is done");
    });
}

#[test]
fn closing_commits_and_answers_everything_that_was_queued() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        let mut jobs: Vec<_> = (0..400)
            .map(|_| Box::pin(store.write(note("queued"))))
            .collect();
        let mut waits = pin!(store.write_deferred(note("soon")));
        for job in &mut jobs {
            let _ = poll_once(job.as_mut()).await;
        }
        assert!(poll_once(waits.as_mut()).await.is_none());
        in_time(store.close()).await;
        for job in jobs {
            assert!(in_time(job).await.is_ok());
        }
        assert!(in_time(waits).await.is_ok());
    });
    with_store_in(directory.path(), async |store, _| {
        assert!(noted(store, "queued") && noted(store, "soon"));
    });
}

#[test]
fn closing_ends_when_nobody_publishes() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&options(directory.path()), Pool::default()).expect("it opens");
    smol::block_on(async {
        let publishing = poll_once(pin!(store.clone().publish(|_| {}))).await;
        assert!(publishing.is_none());
        let mut jobs: Vec<_> = (0..8)
            .map(|_| Box::pin(store.write(note("never shown"))))
            .collect();
        for job in &mut jobs {
            let _ = poll_once(job.as_mut()).await;
            std::thread::sleep(Duration::from_millis(20));
        }
        in_time(store.close()).await;
        for job in jobs {
            assert!(in_time(job).await.is_ok(), "it is committed");
        }
    });
}

#[test]
fn a_batch_that_changes_nothing_is_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        store.write(note("first")).await.expect("written");
        let before = database(directory.path());
        for _ in 0..3 {
            let refused = store.write(|_| Err::<(), _>(Error::Full)).await;
            assert!(matches!(refused, Err(Error::Full)));
        }
        let seen = store.write(|tx| tx.facts()?.has("first")).await;
        assert!(seen.expect("read"));
        assert!(before == database(directory.path()), "the file was written");
    });
}

#[test]
fn an_idle_store_saves_the_allocator_state_once() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        store.write(note("first")).await.expect("written");
        let busy = database(directory.path());
        Timer::after(Duration::from_millis(2500)).await;
        let settled = database(directory.path());
        assert!(busy != settled, "nothing was saved");
        Timer::after(Duration::from_millis(2500)).await;
        assert!(settled == database(directory.path()), "it does not rest");
    });
}

#[test]
fn slow_writes_do_not_save_the_allocator_state_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        store.write(note("first")).await.expect("written");
        let busy = database(directory.path());
        Timer::after(Duration::from_millis(2500)).await;
        assert!(busy != database(directory.path()), "nothing was saved");
        store.write(note("second")).await.expect("written");
        let busy = database(directory.path());
        Timer::after(Duration::from_millis(2500)).await;
        assert!(busy == database(directory.path()), "it was saved again");
    });
}

#[test]
fn a_store_that_only_reads_writes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |_, _| {});
    with_store_in(directory.path(), async |store, _| {
        let before = database(directory.path());
        assert!(!noted(store, "anything"));
        Timer::after(Duration::from_millis(2500)).await;
        assert!(before == database(directory.path()), "the file was written");
    });
}

#[test]
fn scans_read_the_published_snapshot_on_the_pool() {
    with_store(async |store, _| {
        store.write(note("first")).await.expect("written");
        let here = std::thread::current().id();
        let scan = store.scan("test", move |s| {
            assert_ne!(std::thread::current().id(), here);
            s.facts()
                .and_then(|facts| facts.has("first"))
                .map_err(|_| crate::pool::Error)
        });
        assert!(scan.await.expect("scanned"));
    });
}

#[test]
fn twenty_concurrent_jobs_are_all_answered() {
    with_store(async |store, _| {
        let writers = LocalExecutor::new();
        let tasks: Vec<_> = (0..20)
            .map(|writer| {
                writers.spawn(async move {
                    for n in 0..20 {
                        let fact = format!("{writer}/{n}");
                        let job = move |tx: &Tx| put(tx, &fact);
                        store.write(job).await.expect("written");
                        assert!(noted(store, &format!("{writer}/{n}")), "not shown yet");
                    }
                })
            })
            .collect();
        in_time(writers.run(async {
            for task in tasks {
                task.await;
            }
        }))
        .await;
    });
}
