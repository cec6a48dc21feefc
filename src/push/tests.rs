//! The sender over a store of its own. It is stopping, so nothing is sent and marks stay.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use smol::Timer;

use super::{
    PushSender,
    pending::Marks,
    queues::{Queues, State},
    saving,
};
use crate::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    federation::Client,
    pool::Pool,
    protocol::ServerKey,
    rooms::Local,
    store::{
        self, DeviceNum, Effect, Options, Position, Reader, RoomNum, Store, Tx, UserNum,
        records::{Pusher, PusherState},
    },
    users::pushers::{self, PusherKey},
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// The cursor that is stored.
const STORED: Position = Position(3);
/// The last position in the store.
const NOW: Position = Position(50);

fn state(cursor: Position) -> PusherState {
    PusherState {
        cursor,
        badge: None,
        backoff: None,
        failing_since_ts: None,
        success_ts: None,
        answer: None,
    }
}

fn add_pusher(tx: &Tx) -> Result<PusherKey, store::Error> {
    let key = PusherKey {
        user: tx.user_num("@alice:here.example")?,
        app_id: "app".to_owned(),
        pushkey: "key".to_owned(),
    };
    let pusher = Pusher {
        device: DeviceNum(1),
        app_display_name: String::new(),
        device_display_name: String::new(),
        profile_tag: None,
        lang: String::new(),
        data: "{}".to_owned(),
        set_ts: 0,
    };
    let row = (key.user, key.app_id.as_str(), key.pushkey.as_str());
    tx.pushers()?.put(row, &pusher)?;
    tx.pusher_states()?.put(row, &state(STORED))?;
    Ok(key)
}

/// Runs `test` with a sender that has just started and one pusher.
fn with_sender(test: impl AsyncFnOnce(&PushSender, Arc<PusherKey>)) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let pool = Pool::default();
    let store = Store::open(&options, pool.clone()).expect("the store opens");
    let settings = format!(
        "data_dir = {:?}\nserver_name = \"here.example\"\nlisten = [\"127.0.0.1:0\"]",
        directory.path()
    );
    let settings = Settings::parse(&settings).expect("these are settings");
    let config = Config::try_from(settings).expect("these settings fit together");
    let clock = Clock::manual(1_790_000_000_000);
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let key = store.write(add_pusher).await.expect("it is written");
        let local = Local::new(config.server_name.clone(), ServerKey::generate());
        let client = Client::new(&config, &store, &local, &clock, &pool, &executor);
        let client = client.expect("there are authorities");
        let gateways = &config.push_gateways;
        let sender = PushSender::new(gateways, NOW, &store, &client, &clock, &executor);
        let sender = sender.expect("it starts");
        sender.0.lock().is_stopping = true;
        sender.resume();
        test(&sender, Arc::new(key)).await;
        store.close().await;
        publishing.await;
    }));
}

/// What the pusher is resumed with.
async fn marks(sender: &PushSender, key: &PusherKey) -> Marks {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(active) = sender.0.lock().active.get(key) {
            return active.marks.clone();
        }
        assert!(Instant::now() < deadline, "the pusher is not resumed");
        Timer::after(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_pusher_that_sent_something_before_it_is_resumed_after_a_start_goes_on_from_its_stored_cursor()
{
    with_sender(async |sender, key| {
        let sent = state(STORED);
        sender.0.lock().unsaved.insert(key.clone(), sent);
        assert_eq!(marks(sender, &key).await, Marks::AllAfter(STORED));
    });
}

#[test]
fn effects_after_a_reopening_do_not_move_the_cursors_from_which_pushers_are_resumed() {
    with_sender(async |sender, key| {
        marks(sender, &key).await;
        {
            let mut queues = sender.0.lock();
            queues.active.clear();
            queues.unsaved.insert(key.clone(), state(STORED));
        }
        sender.apply(&Effect::Reopened);
        sender.0.lock().applied = Position(NOW.0 + 9);
        assert_eq!(marks(sender, &key).await, Marks::AllAfter(NOW));
    });
}

#[test]
fn no_cursor_is_saved_before_its_pusher_is_resumed() {
    with_sender(async |sender, key| {
        let queues = &sender.0;
        queues.lock().unsaved.insert(key.clone(), state(STORED));
        // No other task has run since the start.
        saving::save(queues).await;
        assert_eq!(stored_cursor(queues, &key), STORED);
        assert_eq!(queues.lock().unsaved.len(), 1);
        marks(sender, &key).await;
        assert!(queues.lock().unresumed.is_empty());
        queues.lock().active.clear();
        saving::save(queues).await;
        assert_eq!(stored_cursor(queues, &key), NOW);
    });
}

fn stored_cursor(queues: &Queues, key: &PusherKey) -> Position {
    let state = queues.store.read(|s| pushers::load_state(s, key));
    state.expect("it can be read").expect("a state").cursor
}

#[test]
fn a_failed_save_is_retried() {
    with_sender(async |sender, key| {
        let queues = &sender.0;
        marks(sender, &key).await;
        queues.store.close().await;
        queues.lock().unsaved.insert(key, state(STORED));
        saving::save(queues).await;
        assert_eq!(queues.lock().unsaved.len(), 1);
        assert!(queues.wake_saving.is_full());
    });
}

#[test]
fn a_room_whose_dispatch_failed_is_kept_for_the_next_change_and_holds_cursors_back() {
    let (room, other, first) = (RoomNum(1), RoomNum(2), Position(5));
    let mut state = State {
        applied: NOW,
        changed: BTreeMap::from([(room, first)]),
        ..State::default()
    };
    let key = PusherKey {
        user: UserNum(1),
        app_id: "app".to_owned(),
        pushkey: "key".to_owned(),
    };
    let mut failed = BTreeMap::new();
    let changed = state.take_changed(&mut failed);
    failed.extend(changed);
    state.changed.insert(other, NOW);
    state.take_changed(&mut failed);
    assert_eq!(
        state.cursor(&key),
        Position(4),
        "while another is dispatched"
    );
    assert!(state.take_changed(&mut failed).is_empty());
    assert_eq!(state.cursor(&key), Position(4));
    state.changed.insert(other, NOW);
    let expected = BTreeMap::from([(room, first), (other, NOW)]);
    assert_eq!(state.take_changed(&mut failed), expected);
}
