//! A server behind a proxy, with a name server and a notary: all in order, unless a test breaks something.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use hearth::config::Network;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    certificates::{self, Certificate},
    name_server,
    proxy::{Front, Notary, Pages, Proxy, response},
};
use crate::test_server::{TestServer, expect_ok};

pub const NAME: &str = "example.test";
/// The time of the clock of the tests.
const DATE: &str = "Mon, 21 Sep 2026 14:13:20 GMT";
const CORS: &str = "access-control-allow-origin: *\r\n";

/// What a test breaks.
pub struct Setup {
    pub settings: String,
    /// Lines of the zone: added, or instead of those of the same name and type.
    pub zone: Vec<&'static str>,
    pub certificate: Certificate,
    pub proxy: Proxy,
    /// Responses instead of what is there otherwise, by path.
    pub pages: Vec<(&'static str, String)>,
    /// Whether the notary gets the keys of the server.
    pub is_reached: bool,
    /// How many milliseconds ago it has got them.
    pub fetched_ago_ms: u64,
    /// The time of the notary.
    pub date: &'static str,
    /// Whether others are led to a port on which nobody listens.
    pub is_deaf: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            settings: String::new(),
            zone: Vec::new(),
            certificate: Certificate::Valid,
            proxy: Proxy {
                forwarded_for: Some("203.0.113.5"),
                ..Proxy::default()
            },
            pages: Vec::new(),
            is_reached: true,
            fetched_ago_ms: 0,
            date: DATE,
            is_deaf: false,
        }
    }
}

pub struct World {
    pub server: TestServer,
    backend: Arc<AtomicU16>,
    _directory: TempDir,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let (authority, tls) = certificates::make(
            setup.certificate,
            &[NAME, "matrix.example.test", "notary.test"],
        );
        fs::write(
            path("resolv.conf"),
            "nameserver 127.0.0.1\noptions attempts:1 timeout:2\n",
        )
        .expect("a file");
        let (notary_authority, notary_tls) =
            certificates::make(Certificate::Valid, &["notary.test"]);
        fs::write(path("extra.pem"), authority + &notary_authority).expect("a file");
        let backend = Arc::new(AtomicU16::new(0));
        let network = Network {
            resolv_conf: path("resolv.conf"),
            hosts: path("hosts"),
            name_server_port: name_server::start(zone(&setup.zone, port)),
            matrix_port: port,
            http_port: 1,
            https_port: port,
        };
        let notary_listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let notary = notary_listener
            .local_addr()
            .expect("it has an address")
            .port();
        let settings = format!(
            "server_name = \"{NAME}\"\nregistration = \"token\"\nregistration_token = \"t\"\n\
             federation = \"on\"\nallow_private_addresses = true\nextra_ca = {:?}\n\
             registration_shared_secret = \"secret\"\nnotaries = [\"notary.test:{notary}\"]\n{}",
            path("extra.pem"),
            setup.settings
        );
        let server = TestServer::on_network(&settings, network);
        let keys = server.get("/_matrix/key/v2/server").1;
        Front {
            listener: notary_listener,
            tls: notary_tls,
            pages: Pages::new(),
            notary: Some(Notary {
                keys,
                is_reached: setup.is_reached,
                fetched_ago_ms: setup.fetched_ago_ms,
                date: setup.date,
            }),
            proxy: Proxy::default(),
            backend: backend.clone(),
        }
        .start();
        let led_to = if setup.is_deaf { closed_port() } else { port };
        let delegation = json!({ "m.server": format!("{NAME}:{led_to}") }).to_string();
        let mut pages = Pages::from([(
            (NAME, "/.well-known/matrix/server".to_owned()),
            response(200, "application/json", &delegation, CORS),
        )]);
        for (path, page) in setup.pages {
            pages.insert(
                (NAME, path.to_owned()),
                page.replace("PORT", &port.to_string()),
            );
        }
        backend.store(server.port(), Ordering::Relaxed);
        Front {
            listener,
            tls,
            pages,
            notary: None,
            proxy: setup.proxy,
            backend: backend.clone(),
        }
        .start();
        Self {
            server,
            backend,
            _directory: directory,
        }
    }

    /// The proxy loses the server.
    pub fn cut(&self) {
        self.backend.store(closed_port(), Ordering::Relaxed);
    }

    /// The proxy finds the server again.
    pub fn repair(&self) {
        self.backend.store(self.server.port(), Ordering::Relaxed);
    }

    pub fn check(&self) -> Report {
        let mut request = json!({});
        loop {
            let response = expect_ok(self.server.administer("doctor", &request));
            if response["report"].is_object() {
                return Report(response["report"].clone());
            }
            request["run"] = response["run"].clone();
        }
    }
}

fn zone(changes: &[&str], port: u16) -> String {
    let changes: Vec<_> = changes
        .iter()
        .map(|line| line.replace("PORT", &port.to_string()))
        .collect();
    let key = |line: &str| {
        let mut words = line.split(' ');
        (
            words.next().map(str::to_owned),
            words.next().map(str::to_owned),
        )
    };
    let usual = [
        "example.test A 127.0.0.1",
        "matrix.example.test A 127.0.0.1",
        "notary.test A 127.0.0.1",
    ];
    let kept = usual.into_iter().filter(|line| {
        let is_changed = |change: &String| key(change) == key(line);
        !changes.iter().any(is_changed)
    });
    let kept = kept.map(str::to_owned);
    kept.chain(changes.iter().cloned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

pub struct Report(pub Value);

impl Report {
    pub fn is_green(&self) -> bool {
        self.0["green"] == true
    }

    /// The findings that are not in order, as a line each: check, state, problem, advice. Without those of the service,
    /// which nobody has installed here, and of backups, which nobody makes.
    pub fn problems(&self) -> Vec<String> {
        let findings = self.0["findings"].as_array().expect("findings").iter();
        let is_problem = |finding: &&Value| {
            finding["state"] != "ok"
                && finding["check"] != "service"
                && finding["check"] != "backup"
        };
        findings
            .filter(is_problem)
            .map(|finding| {
                let text = |name: &str| finding[name].as_str().expect("a text");
                let [check, state] = ["check", "state"].map(text);
                format!("{check} {state}: {} {}", text("problem"), text("advice"))
            })
            .collect()
    }

    /// Asserts that one problem has all of these parts.
    #[track_caller]
    pub fn names(&self, parts: &[&str]) -> &Self {
        let problems = self.problems();
        let has_all = |problem: &&String| parts.iter().all(|part| problem.contains(part));
        assert!(
            problems.iter().any(|problem| has_all(&problem)),
            "{parts:?} is not in {problems:#?}"
        );
        self
    }

    #[track_caller]
    pub fn is_red(&self) {
        assert!(!self.is_green(), "{:#?}", self.problems());
    }

    #[track_caller]
    pub fn is_only_a_warning(&self) {
        assert!(self.is_green(), "{:#?}", self.problems());
    }
}
