//! The whole server: the one place where its parts are created, started and stopped.
//!
//! Start: listeners (so that a wrong setting shows at once, and early clients get 503), store,
//! services, edge. Stop: no new connections, running requests end, the last batch is committed, the
//! store closes.

mod error;
mod offline;
mod owner;
mod restore;
mod services;

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc};

use async_signal::{Signal, Signals};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::{
    Task,
    future::{self, FutureExt},
    stream::StreamExt,
};

use self::services::Services;
pub use self::{
    error::Error,
    offline::{create_data, give_files_to_owner, offline, with_store},
    restore::{Restored, restore},
};
use crate::{
    acme::{self, Acme},
    clock::Clock,
    config::{CertificateSource, Config},
    executor::Executor,
    federation::{Authorities, Federation},
    gauges::Gauges,
    http::{self, AdminSocket, Certificate, Edge, Gate, ListenError, Listeners},
    pool::Pool,
    stop::{self, Stop},
    store::{self, Store},
    systemd::{Manager, Sockets},
};

/// A running server.
pub struct Server {
    edge: Edge,
    services: Services,
    gate: Arc<Gate>,
    addresses: Vec<SocketAddr>,
    certificate: Option<Certificate>,
    stop: Stop,
    serving: Task<()>,
    serving_admin: Option<Task<()>>,
    serving_metrics: Option<Task<()>>,
    renewing: Option<Task<()>>,
}

impl Server {
    /// Starts everything on `executor`, which must be running. Returns when the server is open; clients
    /// that connect before get 503. `sockets` are listening already.
    pub async fn start(
        executor: &Executor,
        config: Config,
        sockets: Sockets,
        clock: Clock,
    ) -> Result<Self, Error> {
        let pool = Pool::default();
        let (certificate, acme) = certificate(&config, &pool, &clock)?;
        let bound = Listeners::bind(&config, sockets, certificate.clone())
            .and_then(|listeners| Ok((listeners, Listeners::for_metrics(&config)?)));
        let (listeners, metrics_listeners) = bound.map_err(|error| not_bound(&config, error))?;
        let addresses = listeners.addresses();
        let gate = Arc::new(Gate::default());
        let (stop, stopping) = stop::channel();
        let gauges = Arc::new(Gauges::default());
        let serving = executor.spawn({
            let (executor, gate, stopping) = (executor.clone(), gate.clone(), stopping.clone());
            let gauges = gauges.clone();
            async move { listeners.serve(&executor, gate, gauges, stopping).await }
        });
        let mut services = Services::start(
            executor,
            config,
            (acme.clone(), gauges),
            clock,
            pool,
            stopping.clone(),
        )
        .await?;
        services.resume(executor)?;
        let serving_metrics = metrics_listeners.map(|listeners| {
            let gate = Arc::new(Gate::default());
            gate.open(Edge::metrics(services.api.clone()));
            let (of_connections, stopping) = (executor.clone(), stopping.clone());
            let gauges = services.api.gauges.clone();
            executor.spawn(async move {
                listeners
                    .serve(&of_connections, gate, gauges, stopping)
                    .await
            })
        });
        let serving_admin = match AdminSocket::bind(&services.api.config.data_dir) {
            Ok(socket) => {
                let edge = Edge::admin(services.api.clone());
                let of_connections = executor.clone();
                Some(executor.spawn(async move {
                    socket.serve(&of_connections, edge, stopping).await;
                }))
            }
            Err(error) => {
                let directory = services.api.config.data_dir.display();
                log::warn!(
                    "commands such as `hearth status` only work while the server is stopped: it cannot \
                     listen on hearth.sock in {directory}: {error}"
                );
                None
            }
        };
        let edge = Edge::new(services.api.clone());
        gate.open(edge.clone());
        let renewing = acme.map(|acme| executor.spawn(async move { acme.run().await }));
        Ok(Self {
            edge,
            services,
            gate,
            addresses,
            certificate,
            stop,
            serving,
            serving_admin,
            serving_metrics,
            renewing,
        })
    }

    /// Where clients connect: the plain listeners, then those with TLS.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// For tests: answers requests without a connection.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// For tests: sends requests in the name of this server.
    pub fn federation(&self) -> &Federation {
        &self.services.api.federation
    }

    /// For tests: checks the set-up as at night, with `pause` before what is newly red is looked at again.
    pub async fn check_as_at_night(&self, pause: impl Future<Output = ()>) {
        self.services.check_as_at_night(pause).await;
    }

    /// For tests: reads what no request shows.
    pub fn store(&self) -> &Store {
        &self.services.api.store
    }

    /// Waits until the server has to stop because of an error, if ever.
    pub async fn failed(&mut self) -> Error {
        let disk = async { self.services.api.store.failed().await.into() };
        let publishing = &mut self.services.publishing;
        let publishing = end_of(publishing, "the task that publishes commits");
        let serving = end_of(&mut self.serving, "the task that accepts connections");
        future::or(disk, future::or(publishing, serving)).await
    }

    /// Lets running requests end, commits what is queued and closes the store.
    pub async fn stop(self) {
        self.stop.now();
        drop(self.renewing);
        self.serving.await;
        for serving in self.serving_admin.into_iter().chain(self.serving_metrics) {
            serving.await;
        }
        self.gate.shut();
        drop(self.edge);
        self.services.stop().await;
    }
}

/// Why the server cannot listen. Another one with the same data has most likely the same settings.
fn not_bound(config: &Config, error: ListenError) -> Error {
    if http::is_server_running(&config.data_dir) {
        let (path, error) = (config.data_dir.clone(), store::Error::InUse);
        return Error::Open { path, error };
    }
    error.into()
}

/// Waits for the end of a task that should run as long as the server.
async fn end_of(task: &mut Task<()>, name: &'static str) -> Error {
    // The panic hook has logged why.
    let _ = AssertUnwindSafe(task).catch_unwind().await;
    Error::Ended(name)
}

/// The certificate for TLS, and who gets it if it is not in files.
fn certificate(
    config: &Config,
    pool: &Pool,
    clock: &Clock,
) -> Result<(Option<Certificate>, Option<Acme>), Error> {
    match config.tls.as_ref().map(|tls| &tls.source) {
        None => Ok((None, None)),
        Some(CertificateSource::Files(files)) => {
            Ok((Some(Certificate::of_files(files, pool)?), None))
        }
        Some(CertificateSource::Acme(settings)) => {
            let client = Authorities::load(config.extra_ca.as_deref())?.client_config();
            let client = Arc::new(client.map_err(acme::Error::Authorities)?);
            let acme = Acme::load(settings, &config.data_dir, client, pool, clock)?;
            Ok((Some(Certificate::of_acme(&acme)?), Some(acme)))
        }
    }
}

/// Runs a server until SIGTERM or SIGINT. SIGHUP reloads the certificate. Calls `opened` and notifies
/// systemd when it is open.
pub fn run(config: Config, sockets: Sockets, opened: impl FnOnce()) -> Result<(), Error> {
    raise_file_limit();
    let manager = Manager::from_env();
    let serving = format!("serving {}", config.server_name);
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup]);
        let mut signals = signals.map_err(Error::Signals)?;
        let start = async {
            let path = config.data_dir.clone();
            let start = Server::start(&executor, config, sockets, Clock::default());
            // redb panics over some damaged pages.
            let start = AssertUnwindSafe(start).catch_unwind();
            let panicked = |_| Err(Error::StartPanicked(path));
            let started = manager.starting(async { start.await.unwrap_or_else(panicked) });
            Ok::<_, Error>(Some(started.await?))
        };
        let stopped = async {
            stop_signal(&mut signals, None).await;
            Ok(None)
        };
        let Some(mut server) = future::or(start, stopped).await? else {
            return Ok(());
        };
        manager.ready(&serving);
        opened();
        let certificate = server.certificate.clone();
        let stopped = async {
            stop_signal(&mut signals, certificate.as_ref()).await;
            None
        };
        let failed = async { Some(server.failed().await) };
        let failure = manager.watching(future::or(stopped, failed)).await;
        manager.stopping();
        if matches!(failure, Some(Error::Ended(_))) {
            return failure.map_or(Ok(()), Err);
        }
        log::info!("stopping");
        // A second signal stops the process at once. Acknowledged writes are durable already.
        future::or(server.stop(), stop_signal(&mut signals, None)).await;
        failure.map_or(Ok(()), Err)
    }))
}

/// Waits for SIGTERM or SIGINT, and reloads the certificate on SIGHUP.
async fn stop_signal(signals: &mut Signals, certificate: Option<&Certificate>) {
    while let Some(Ok(Signal::Hup)) = signals.next().await {
        if let Some(certificate) = certificate {
            certificate.reload().await;
        }
    }
}

/// Each connection needs a file descriptor. The default limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If it fails, `accept` waits when the descriptors run out.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use super::{Error, Executor, end_of};

    #[test]
    fn a_task_that_panics_has_ended() {
        let executor = Executor::default();
        let mut panics = executor.spawn(async { panic!("a task of a test panics") });
        let error = smol::block_on(executor.run(end_of(&mut panics, "the task")));
        assert!(matches!(error, Error::Ended("the task")));
    }
}
