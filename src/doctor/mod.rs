//! A check of the server's set-up: what other servers and apps find, and the machine.
//!
//! - [`names`], [`well_known`], [`certificate`] and [`reach`] look at what others see, through the resolver that
//!   is used for other servers, but without its caches (`federation::probe`).
//! - [`elsewhere`] lets a notary look; [`echo`] sends requests to this server through its own proxy.
//! - [`machine`] looks at disk, memory and the unit, [`backups`] at how old the last backup is.
//! - [`nightly`] does all of it once a day.
//!
//! Each module gathers facts first and then judges them. Every lookup and request has a timeout and a limit, and
//! those that do not need each other's result run concurrently. Nothing is written but a file to measure the disk.

mod backups;
mod certificate;
pub mod echo;
mod elsewhere;
mod finding;
mod machine;
mod names;
pub mod nightly;
mod reach;
mod visit;
mod well_known;

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName};
use smol::{
    Timer,
    future::{or, zip},
};

use self::{
    certificate::Origin,
    elsewhere::Evidence,
    reach::{Identity, Surroundings},
    visit::Visits,
    well_known::Delegation,
};
pub use self::{
    echo::Echo,
    finding::{Finding, Report, State},
};
use crate::{
    acme::Acme,
    backup,
    clock::Clock,
    config::{Config, Federation, Memory},
    executor::Executor,
    federation::{
        WebUrl, keys,
        probe::{Probe, Site},
    },
    pool::{Kind, Pool},
    rooms::Local,
    runs::{Progress, Runs},
    store::{Space, Store},
};

/// How long a disk may take to say which one it is.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks the set-up.
pub struct Doctor {
    config: Config,
    parts: DoctorParts,
    pub nonce: echo::Nonce,
    runs: Runs<Report>,
}

impl std::fmt::Debug for Doctor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doctor").finish_non_exhaustive()
    }
}

/// The parts that the doctor works with.
pub struct DoctorParts {
    pub acme: Option<Acme>,
    pub local: Local,
    pub probe: Probe,
    pub clock: Clock,
    pub pool: Pool,
    pub executor: Executor,
    pub store: Store,
}

impl Doctor {
    pub fn new(config: &Config, parts: DoctorParts) -> Self {
        Self {
            config: config.clone(),
            parts,
            nonce: echo::Nonce::default(),
            runs: Runs::default(),
        }
    }

    /// Joins the run that is under way, or starts one. Without listeners (`is_serving`), what needs them is left
    /// out.
    pub fn start(self: &Arc<Self>, is_serving: bool) -> (u64, Arc<Progress<Report>>) {
        self.runs.join_or_start(|progress| {
            let doctor = self.clone();
            let clock = self.parts.clock.clone();
            let guard = progress.guard(move || Report::of_failed_check(clock.now_ms()));
            let run = async move {
                let _guard = guard;
                let findings = doctor.check(is_serving, &progress).await;
                progress.finish(Report::new(findings, doctor.parts.clock.now_ms()));
            };
            self.parts.executor.spawn(run).detach();
        })
    }

    /// The run with this number, if it is the last one.
    pub fn run(&self, number: u64) -> Option<Arc<Progress<Report>>> {
        self.runs.get(number)
    }

    async fn check(&self, is_serving: bool, progress: &Progress<Report>) -> Vec<Finding> {
        let machine = progress.step("the machine", self.check_machine(is_serving));
        let network = self.check_network(is_serving, progress);
        let (mut findings, network) = zip(machine, Box::pin(network)).await;
        findings.extend(network);
        findings
    }

    async fn check_machine(&self, is_serving: bool) -> Vec<Finding> {
        let directory = self.config.data_dir.clone();
        let measure = move || {
            let space = Space::of(&directory);
            let is_scarce = space.as_ref().is_ok_and(|space| space.is_scarce());
            let sync = (!is_scarce).then(|| machine::measure_sync(&directory));
            machine::check_disk(space, sync)
        };
        let disk = self.parts.pool.run(Kind::File, measure).await;
        let mut findings = disk.unwrap_or_default();
        // If the disk fails, the finding above says so.
        if let Ok(record) = self.parts.store.read(backup::Record::load) {
            findings.push(self.check_backups(record).await);
        }
        if is_serving {
            let limit = Memory::limit_of_cgroup().map(|limit| limit as u64);
            let total = machine::total_memory();
            findings.push(machine::check_memory(self.config.memory, limit, total));
            findings.push(machine::check_service(&machine::Process::current()));
        }
        findings
    }

    async fn check_backups(&self, record: backup::Record) -> Finding {
        let directory = self.config.backup_dir.clone();
        let data_dir = self.config.data_dir.clone();
        let compare = {
            let directory = directory.clone();
            move || directory.is_some_and(|it| backups::is_same_disk(&it, &data_dir))
        };
        let compared = self.parts.pool.run(Kind::File, compare);
        let compared = async { compared.await.unwrap_or(false) };
        // The disk may hang.
        let too_long = async {
            Timer::after(DISK_TIMEOUT).await;
            false
        };
        let is_same_disk = or(compared, too_long).await;
        let now = self.parts.clock.now_ms();
        backups::check(directory.as_deref(), &record, is_same_disk, now)
    }

    async fn check_network(&self, is_serving: bool, progress: &Progress<Report>) -> Vec<Finding> {
        let name = &self.config.server_name;
        if self.config.is_local() {
            let problem = format!("Only this machine can reach a server named {name}.");
            let advice =
                "Give it another `server_name` before it has users, if others are to reach it.";
            return vec![Finding::unknown("dns", problem, advice)];
        }
        let host = name.host();
        let federates = !matches!(self.config.federation, Federation::Off);
        let evidence = progress.step("a server elsewhere", self.evidence(is_serving && federates));
        let over = (&self.parts.probe, &self.parts.executor);
        let well_known = async {
            let fetched = zip(
                well_known::fetch_server(over, name),
                well_known::fetch_client(over, name),
            );
            let looked_up = zip(names::look_up(&self.parts.probe, host), fetched);
            let (addresses, (server, client)) = progress.step("the name", looked_up).await;
            (addresses, Delegation::of(name, &server), server, client)
        };
        let (evidence, (addresses, delegation, server_file, client_file)) =
            zip(Box::pin(evidence), Box::pin(well_known)).await;
        let (evidence, notary) = evidence;
        let surroundings = Surroundings {
            reached: evidence.reached,
            is_default_port: delegation.to().is_none() && name.port().is_none(),
        };
        let allow_private = self.config.allow_private_addresses;
        let mut findings = names::check_addresses(&addresses, allow_private, evidence.reached);
        findings.push(elsewhere::check_clock(&evidence));
        if !is_serving {
            findings.push(Finding::unknown(
                "federation",
                "What others get from this server is not checked while it is stopped.",
                "Start it (`systemctl start hearth`) and run `hearth doctor` again.",
            ));
            return findings;
        }
        let federation = async {
            match federates {
                true => {
                    let check = self.check_federation(&delegation, surroundings);
                    progress.step("federation", Box::pin(check)).await
                }
                false => (Vec::new(), None, true),
            }
        };
        let clients = progress.step("apps", Box::pin(self.check_clients(surroundings)));
        let (federation, clients) = zip(federation, clients).await;
        let (of_federation, federation_site, is_found) = federation;
        let (of_clients, client_site) = clients;
        findings.extend(of_federation);
        findings.extend(of_clients);
        if federates {
            findings.extend(elsewhere::check_reached(&evidence, notary.as_deref()));
            let host = self.client_host();
            findings.push(well_known::check_server(name, &delegation, &host, is_found));
            let is_needed = delegation.to().is_some() || !is_found;
            if is_needed && Some(&server_file.visits.site) != client_site.as_ref().map(|it| &it.0) {
                let (origin, now) = (Origin::Elsewhere, self.parts.clock.now_ms());
                findings.extend(certificate::check(&server_file.visits, origin, now));
            }
        }
        if let Some(url) = self.config.client_url() {
            findings.extend(well_known::check_client(name, &client_file, &url));
        }
        if let Some(acme) = &self.parts.acme {
            findings.extend(certificate::check_orders(&acme.status()));
        }
        let echoes = self.check_proxy([client_site, federation_site]);
        findings.extend(progress.step("the proxy", Box::pin(echoes)).await);
        findings
    }

    /// What a notary or another server on the web says, and which notary.
    async fn evidence(&self, may_ask_servers: bool) -> (Evidence, Option<OwnedServerName>) {
        let over = (&self.parts.probe, &self.parts.executor);
        let allowed = |notary: &&OwnedServerName| {
            may_ask_servers
                && **notary != self.config.server_name
                && self.config.federation.allows(notary)
        };
        if let Some(notary) = self.config.notaries.iter().find(allowed) {
            let key = self.parts.local.key();
            let (key_id, public) = (key.id().to_string(), key.public_key().encode());
            let identity = self.identity(&key_id, &public);
            let validity = (self.parts.clock.now_ms(), keys::VALIDITY);
            let evidence = elsewhere::request_keys(over, notary, &identity, validity).await;
            return (evidence, Some(notary.clone()));
        }
        if let Some(directory) = self.config.acme_directory() {
            return (elsewhere::request_time(over, directory).await, None);
        }
        (Evidence::default(), None)
    }

    fn identity<'a>(&'a self, key_id: &'a str, key: &'a str) -> Identity<'a> {
        Identity {
            name: &self.config.server_name,
            key_id,
            key,
        }
    }

    /// The findings, a site that answers, and whether other servers find this one.
    async fn check_federation(
        &self,
        delegation: &Delegation,
        surroundings: Surroundings,
    ) -> (Vec<Finding>, Option<(Site, std::net::IpAddr)>, bool) {
        let name: &ServerName = &self.config.server_name;
        let delegated = delegation.to();
        let (services, found) = zip(
            Box::pin(names::look_up_services(&self.parts.probe, name, delegated)),
            self.parts
                .probe
                .discover(name, delegated.map(ToOwned::to_owned)),
        )
        .await;
        let mut findings: Vec<_> = services.iter().flat_map(names::check_services).collect();
        let over = (&self.parts.probe, &self.parts.executor);
        let Some(found) = found else {
            findings.push(Finding::error(
                "federation",
                format!(
                    "Other servers find no address for {}.",
                    delegated.unwrap_or(name)
                ),
                "See what is wrong with its DNS records, or with /.well-known/matrix/server.",
            ));
            return (findings, None, false);
        };
        let key = self.parts.local.key();
        let (key_id, public) = (key.id().to_string(), key.public_key().encode());
        let identity = self.identity(&key_id, &public);
        let mut ports: Vec<_> = found
            .addresses
            .iter()
            .map(|address| address.port())
            .collect();
        ports.dedup();
        let (mut reached, mut is_found) = (None, false);
        for port in ports {
            let at_port = found
                .addresses
                .iter()
                .filter(|address| address.port() == port);
            let addresses: Vec<_> = at_port.map(|address| address.ip()).collect();
            let site = Site {
                host: found.host.clone(),
                authority: found.authority.clone(),
                port,
            };
            let (keys, versions) = zip(
                visit::get(over, site.clone(), &addresses, "/_matrix/key/v2/server"),
                visit::get(over, site, &addresses, "/_matrix/federation/v1/version"),
            )
            .await;
            let of_port = reach::check_federation(&identity, &keys, &versions, surroundings);
            let of_certificate =
                certificate::check(&keys, self.origin(), self.parts.clock.now_ms());
            let is_fine = |finding: &Finding| finding.state != State::Error;
            is_found |= of_port.iter().chain(&of_certificate).all(is_fine);
            findings.extend(of_port);
            findings.extend(of_certificate);
            reached = reached.or(own_site(&identity, &keys));
        }
        (findings, reached, is_found)
    }

    /// The findings, and a site that answers.
    async fn check_clients(
        &self,
        surroundings: Surroundings,
    ) -> (Vec<Finding>, Option<(Site, std::net::IpAddr)>) {
        let url = self.config.client_url();
        let Some(url) = url.as_deref().and_then(WebUrl::parse) else {
            return (Vec::new(), None);
        };
        let site = visit::site(&url.host, url.port, self.parts.probe.https_port());
        let addresses = visit::addresses(&self.parts.probe, &url.host).await;
        let path = format!("{}/_matrix/client/versions", url.path.trim_end_matches('/'));
        let over = (&self.parts.probe, &self.parts.executor);
        let (visits, keys) = zip(
            visit::get(over, site.clone(), &addresses, &path),
            visit::get(over, site, &addresses, "/_matrix/key/v2/server"),
        )
        .await;
        let key = self.parts.local.key();
        let (key_id, public) = (key.id().to_string(), key.public_key().encode());
        let identity = self.identity(&key_id, &public);
        let mut findings = reach::check_clients(&identity, &visits, &keys, surroundings);
        findings.extend(certificate::check(
            &visits,
            self.origin(),
            self.parts.clock.now_ms(),
        ));
        (findings, own_site(&identity, &keys))
    }

    /// Requests to the sites of clients and of federation, which may be the same.
    async fn check_proxy(&self, sites: [Option<(Site, std::net::IpAddr)>; 2]) -> Vec<Finding> {
        let is_proxied = self.config.tls.is_none();
        let nonce = self.nonce.renew();
        let mut findings = Vec::new();
        let mut seen = Vec::new();
        for (site, path) in sites.into_iter().zip(echo::PATHS) {
            let Some((site, address)) = site.filter(|site| !seen.contains(site)) else {
                continue;
            };
            seen.push((site.clone(), address));
            let path = (path, nonce.as_str());
            let echoes = echo::send(&self.parts.probe, site, address, path, is_proxied).await;
            findings.extend(echo::check(&echoes, is_proxied, self.config.max_upload));
        }
        self.nonce.clear();
        findings
    }

    fn origin(&self) -> Origin {
        Origin::of(self.config.tls.as_ref().map(|tls| &tls.source))
    }

    /// The host at which apps are, and other servers may be too.
    fn client_host(&self) -> String {
        let url = self.config.public_url.as_ref();
        let host = url.and_then(|url| url.host());
        host.unwrap_or(self.config.server_name.host()).to_owned()
    }
}

/// The site of `keys`, which are visits of `/_matrix/key/v2/server`, and an address at which something answers that
/// is not seen to be another server.
fn own_site(identity: &Identity<'_>, keys: &Visits) -> Option<(Site, std::net::IpAddr)> {
    let at = &keys.site.authority;
    let visit = keys.all.iter().find(|visit| {
        visit.response().is_ok() && reach::check_identity("", identity, at, visit).is_none()
    })?;
    Some((keys.site.clone(), visit.address))
}
