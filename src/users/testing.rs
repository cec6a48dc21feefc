//! A service over a store of its own, for the tests of this module.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use ruma::{server_name, user_id};
use serde_json::{Value, value::RawValue};
use tempfile::TempDir;

use super::{
    Error, Login, NewAccount, NewLogin, NewPassword, Options, Session, Users, accounts, profiles,
};
use crate::{
    clock::Clock,
    config::{Registration, Secret},
    executor::Executor,
    pool::Pool,
    store::{
        self, Effect, EventNum, Place, Position, Reader, RoomNum, Store, UserNum,
        records::{MemberRow, Membership},
    },
};

pub(super) const PASSWORD: &str = "correct horse battery";

pub(super) struct Server {
    pub(super) users: Users,
    pub(super) store: Store,
    pub(super) clock: Clock,
    effects: Arc<Mutex<Vec<Effect>>>,
    directory: PathBuf,
}

impl Server {
    /// Takes the effects of the commits so far.
    pub(super) fn effects(&self) -> Vec<Effect> {
        std::mem::take(&mut *self.effects.lock().unwrap())
    }

    /// Registers `name` and logs in.
    pub(super) async fn register(&self, name: &str) -> Login {
        self.register_with(name, NewLogin::default()).await
    }

    pub(super) async fn register_with(&self, name: &str, login: NewLogin) -> Login {
        let register = self.users.register(self.account(name, Some(login)));
        register.await.unwrap().login.unwrap()
    }

    pub(super) fn account(&self, name: &str, login: Option<NewLogin>) -> NewAccount {
        NewAccount {
            user_id: self.users.check_username(name).unwrap(),
            password: Some(NewPassword::Clear(PASSWORD.into())),
            admin: None,
            display_name: None,
            login,
            registration_token: None,
        }
    }

    pub(super) async fn log_in(&self, name: &str, login: NewLogin) -> Login {
        let authenticated = self
            .users
            .authenticate_by_password(name, PASSWORD.into())
            .await
            .unwrap();
        self.users.log_in(authenticated, login).await.unwrap()
    }

    pub(super) async fn deactivate(&self, user: UserNum, erase: bool) {
        let deactivate = self
            .store
            .write(move |tx| accounts::deactivate(tx, user, erase));
        deactivate.await.unwrap();
    }

    /// Whether the change concerns membership events.
    pub(super) async fn change_profile(
        &self,
        user: UserNum,
        change: profiles::Change,
    ) -> Result<bool, Error> {
        let change = self
            .store
            .write(move |tx| profiles::apply(tx, user, &change));
        change.await
    }

    pub(super) async fn session(&self, login: &Login) -> Session {
        let token = login.access_token.clone().into_string();
        self.users.session(&token, None).await.unwrap()
    }

    /// Whether the database file has `text` anywhere.
    pub(super) fn database_contains(&self, text: &str) -> bool {
        let file = std::fs::read(self.directory.join("hearth.redb")).unwrap();
        file.windows(text.len()).any(|part| part == text.as_bytes())
    }

    pub(super) async fn is_logged_in(&self, login: &Login) -> bool {
        let token = login.access_token.clone().into_string();
        self.users.session(&token, None).await.is_ok()
    }
}

/// A room of [`alice_and_bob`].
pub(super) const ROOM: RoomNum = RoomNum(7);

/// Registers Alice, who has left the room `!room:example.org`, and Bob, who was never in a room.
pub(super) async fn alice_and_bob(server: &Server) -> [UserNum; 2] {
    let mut users = [UserNum(0); 2];
    for (user, name) in users.iter_mut().zip(["alice", "bob"]) {
        let login = server.register(name).await;
        *user = server.session(&login).await.user;
    }
    let alice = users[0];
    let room = server.store.write(move |tx| {
        tx.room_nums()?.insert("!room:example.org", ROOM)?;
        let left = MemberRow {
            membership: Membership::Leave,
            event: EventNum(1),
            position: Position(1),
            since: Place(1),
            forgotten: false,
        };
        tx.memberships()?.put((alice, ROOM), &left)
    });
    room.await.unwrap();
    server.effects();
    users
}

pub(super) fn raw(content: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(content).unwrap()
}

/// Runs `test` with a new server.
pub(super) fn with_server(test: impl AsyncFnOnce(Server)) {
    let dir = TempDir::new().unwrap();
    start(dir.path(), test);
}

/// Runs `first` with a server, stops it, and runs `second` with the same data.
pub(super) fn across_a_restart<T>(
    first: impl AsyncFnOnce(Server) -> T,
    second: impl AsyncFnOnce(Server, T),
) {
    let dir = TempDir::new().unwrap();
    let between = start(dir.path(), first);
    start(dir.path(), async |server| second(server, between).await);
}

fn start<T>(directory: &Path, test: impl AsyncFnOnce(Server) -> T) -> T {
    let pool = Pool::default();
    let options = store::Options {
        directory: directory.to_owned(),
        cache: 1 << 20,
    };
    let store = Store::open(&options, pool.clone()).unwrap();
    let clock = Clock::manual(Duration::from_hours(24 * 365 * 56).as_millis() as u64);
    let options = Options {
        server_name: server_name!("example.org").into(),
        registration: Registration::Token(Secret::new("let me in")),
        notices_user: user_id!("@announcer:example.org").into(),
        registration_shared_secret: Some(Secret::new("shared")),
    };
    let effects = Arc::<Mutex<Vec<Effect>>>::default();
    let noted = effects.clone();
    let executor = Executor::default();
    executor
        .spawn(store.clone().publish(move |effects: &[Effect]| {
            noted.lock().unwrap().extend_from_slice(effects);
        }))
        .detach();
    let server = Server {
        users: Users::new(options, store.clone(), pool, clock.clone()),
        store: store.clone(),
        clock,
        effects,
        directory: directory.to_owned(),
    };
    smol::block_on(executor.run(async {
        let result = test(server).await;
        store.close().await;
        result
    }))
}
