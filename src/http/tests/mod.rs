//! The edge with endpoints of our own making, each there for one thing that the edge does.

mod answers;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ruma::{
    api::client::{
        discovery::get_supported_versions,
        message::send_message_event,
        session::{get_login_types, login, logout, refresh_token},
        state::send_state_event,
        sync::sync_events,
    },
    owned_event_id,
};
use smol::stream;
use tempfile::TempDir;

use super::routes::Routes;
use crate::{
    api::{Api, Context, Error, Session, Streamed, Unauthenticated},
    backup::{BackupParts, Backups},
    clock::Clock,
    config::{Config, Settings},
    doctor::{Doctor, DoctorParts},
    executor::Executor,
    federation::{Federation, Previews, RemoteMedia, probe::Probe},
    media::Media,
    pool::Pool,
    protocol::ServerKey,
    push::PushSender,
    rates::{Kind, Rates},
    rooms::Local,
    stop::{self, Stop},
    store::{Options, Position, Store},
    sync::Notifier,
    users::{self, NewAccount, NewLogin, Users},
};

/// What the handlers of these tests work with.
struct TestApi {
    api: Api,
    clock: Clock,
    /// An access token of `@alice:localhost`.
    alice: String,
    /// Another, of Bob, that can be refreshed and so ends after a while.
    short: String,
    _stop: Stop,
    _directory: TempDir,
}

impl TestApi {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 1 << 20,
        };
        let pool = Pool::default();
        let store = Store::open(&options, pool.clone()).unwrap();
        let (stop, stopping) = stop::channel();
        let clock = Clock::manual(1_000_000);
        let config: Config = Settings::local().try_into().unwrap();
        let options = users::Options {
            notices_user: config.notices_user.clone(),
            server_name: config.server_name.clone(),
            registration: config.registration.clone(),
            registration_shared_secret: None,
        };
        let local = Local::new(config.server_name.clone(), ServerKey::generate());
        let executor = Executor::default();
        let federation =
            Federation::new(&config, &store, &local, &clock, &pool, &executor).unwrap();
        let media = Media::start(&config, &store, &clock, &pool, &executor);
        let media = smol::block_on(media).unwrap();
        let push = PushSender::new(
            &config.push_gateways,
            Position::MIN,
            &store,
            federation.client(),
            &clock,
            &executor,
        );
        let parts = DoctorParts {
            acme: None,
            local: local.clone(),
            probe: Probe::new(&config, &clock, &pool, &executor).unwrap(),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            store: store.clone(),
        };
        let of_backups = BackupParts {
            store: store.clone(),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            stopping: stopping.clone(),
        };
        let api = Arc::new(Context {
            acme: None,
            backups: Arc::new(Backups::new(&config, of_backups)),
            doctor: Arc::new(Doctor::new(&config, parts)),
            gauges: Arc::default(),
            push: push.unwrap(),
            previews: Previews::new(federation.client(), &media, &clock, &pool, &executor),
            remote_media: RemoteMedia::new(federation.client(), &media, &clock, &executor),
            media,
            federation: Arc::new(federation),
            notifier: Arc::new(Notifier::new(store.clone(), 1).unwrap()),
            typing: Arc::default(),
            lazy_loaded_members: Arc::default(),
            room_lists: crate::sync::sliding::RoomLists::default(),
            read_states: crate::sync::sliding::ReadStates::new(&clock),
            presence: Arc::default(),
            local,
            users: Users::new(options, store.clone(), pool.clone(), clock.clone()),
            rates: Rates::new(1000, clock.clone()),
            refused_joins: crate::api::RefusedJoins::new(&clock),
            requests: crate::request_counts::RequestCounts::default(),
            config,
            clock: clock.clone(),
            pool,
            store: store.clone(),
            stopping,
        });
        let publishing = Executor::default();
        let _published = publishing.spawn(store.publish(|_effects| {}));
        let (alice, short) = smol::block_on(publishing.run(async {
            let alice = register(&api, "alice", false).await;
            (alice, register(&api, "bob", true).await)
        }));
        Self {
            api,
            clock,
            alice,
            short,
            _stop: stop,
            _directory: directory,
        }
    }
}

impl Drop for TestApi {
    fn drop(&mut self) {
        smol::block_on(self.api.store.close());
    }
}

/// Makes an account and returns an access token.
async fn register(api: &Api, name: &str, refresh: bool) -> String {
    let account = NewAccount {
        user_id: api.users.check_username(name).unwrap(),
        password: None,
        admin: None,
        display_name: None,
        login: Some(NewLogin {
            refreshable: refresh,
            ..NewLogin::default()
        }),
        registration_token: None,
    };
    let registered = api.users.register(account).await.unwrap();
    registered.login.unwrap().access_token.into_string()
}

static LOGOUTS: AtomicUsize = AtomicUsize::new(0);

/// Returns which request it got, through the one field of its answer that can hold anything.
async fn say_login(
    _api: Api,
    _client: Unauthenticated,
    request: login::v3::Request,
) -> Result<login::v3::Response, Error> {
    Err(Error::forbidden(format!("{:?}", request.device_id)))
}

async fn say_state(
    _api: Api,
    session: Session,
    request: send_state_event::v3::Request,
) -> Result<send_state_event::v3::Response, Error> {
    Err(Error::forbidden(format!(
        "{} {} {} {:?}",
        session.user_id, request.room_id, request.event_type, request.state_key
    )))
}

async fn send(
    _api: Api,
    _session: Session,
    _request: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response, Error> {
    Ok(send_message_event::v3::Response::new(owned_event_id!("$e")))
}

async fn count_logouts(
    _api: Api,
    _session: Session,
    _request: logout::v3::Request,
) -> Result<logout::v3::Response, Error> {
    LOGOUTS.fetch_add(1, Ordering::Relaxed);
    Ok(logout::v3::Response::new())
}

async fn panic(
    _api: Api,
    _client: Unauthenticated,
    _request: get_login_types::v3::Request,
) -> Result<get_login_types::v3::Response, Error> {
    panic!("a handler of a test panics")
}

async fn fail_inside(
    _api: Api,
    _client: Unauthenticated,
    _request: refresh_token::v3::Request,
) -> Result<refresh_token::v3::Response, Error> {
    Err(Error::Internal("the secret reason"))
}

async fn say_who(
    _api: Api,
    session: Option<Session>,
    _request: get_supported_versions::Request,
) -> Result<get_supported_versions::Response, Error> {
    let names = session.map(|session| session.user_id.to_string());
    let response = get_supported_versions::Response::new(names.into_iter().collect());
    Ok(response)
}

async fn pieces(
    _api: Api,
    _session: Session,
    _request: sync_events::v3::Request,
) -> Result<Streamed, Error> {
    let pieces = ["{\"next_batch\"", ":", "\"s1\"}"];
    let pieces = pieces.map(|piece| Ok(piece.as_bytes().to_vec()));
    Ok(Streamed::new(stream::iter(pieces)))
}

fn routes() -> Routes {
    let mut routes = Routes::default();
    routes.add(say_login).rate(Kind::Login).body(1000);
    routes.add(say_state).open_end();
    routes.add(send).rate(Kind::Send);
    routes.add(count_logouts);
    routes.add(panic);
    routes.add(fail_inside);
    routes.add(say_who);
    routes.add(pieces);
    routes
}
