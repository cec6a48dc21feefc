//! The configuration: read from `hearth.toml` at the start, checked, and passed down.
//!
//! [`Settings`] is the file, [`Config`] what the server uses: its values are consistent. A new setting is a field of [`Settings`] and an entry in
//! `hearth.example.toml`; a test holds the two together.

mod addresses;
mod contact;
mod error;
mod expected;
mod federation;
mod lifetime;
mod memory;
mod network;
mod public_url;
mod push_gateways;
mod secret;
mod server_name;
mod settings;
mod size;
mod tls;
mod trusted_proxies;
mod unauthenticated_media;
mod user_directory;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId, user_id::localpart_is_fully_conforming,
};

pub use self::{
    addresses::{Addresses, Listen},
    contact::Contact,
    error::Error,
    federation::Federation,
    lifetime::Lifetime,
    memory::Memory,
    network::Network,
    public_url::PublicUrl,
    push_gateways::PushGateways,
    secret::Secret,
    server_name::is_local,
    settings::Settings,
    size::Size,
    tls::{Acme, CertificateSource, PemFiles, Tls},
    trusted_proxies::TrustedProxies,
    unauthenticated_media::UnauthenticatedMedia,
    user_directory::UserDirectory,
};

/// Consistent settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// It can never be changed.
    pub server_name: OwnedServerName,
    pub data_dir: PathBuf,
    /// Where the backups of every night go.
    pub backup_dir: Option<PathBuf>,
    /// The file with the settings, which is in the backups.
    pub file: Option<PathBuf>,
    /// Without TLS.
    pub listen: Listen,
    pub tls: Option<Tls>,
    pub public_url: Option<PublicUrl>,
    /// The addresses of `/metrics`.
    pub metrics_listen: Vec<SocketAddr>,
    /// How everybody reaches the administrator.
    pub contact: Contact,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: TrustedProxies,
    pub registration: Registration,
    /// The secret of the admin registration API.
    pub registration_shared_secret: Option<Secret>,
    pub federation: Federation,
    /// Servers from which the signing keys of unreachable servers are fetched.
    pub notaries: Vec<OwnedServerName>,
    /// A PEM file with CA certificates for federation, in addition to the system's.
    pub extra_ca: Option<PathBuf>,
    /// Whether other servers may have private addresses.
    pub allow_private_addresses: bool,
    pub memory: Memory,
    /// The maximum size of a media file, local or remote.
    pub max_upload: Size,
    /// The maximum of all uploads of a user.
    pub user_quota: Option<Size>,
    /// Cached media are evicted when `data_dir` uses more.
    pub disk: Option<Size>,
    /// Whether cached files leave a tenth of the disk free. No setting: tests that count files do not
    /// depend on the disk of their machine.
    pub cache_leaves_disk_free: bool,
    pub network: Network,
    /// What the paths without authentication give to everybody.
    pub unauthenticated_media: UnauthenticatedMedia,
    /// Whether hearth fetches web pages for URL previews.
    pub url_previews: bool,
    /// Whether messages are indexed for `/search`.
    pub search: bool,
    pub turn: Option<Turn>,
    /// Whom users find in the user directory.
    pub user_directory: UserDirectory,
    /// The sender of server notices. It has no account.
    pub notices_user: OwnedUserId,
    /// Push gateways that may be without TLS and at private addresses.
    pub push_gateways: PushGateways,
    /// Whether servers that share a room with a user see the names of the user's devices.
    pub share_device_names: bool,
    pub rate_limits: bool,
    pub log: log::LevelFilter,
}

/// A TURN server that shares a secret with this one.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Never empty.
    pub uris: Vec<String>,
    pub secret: Secret,
    /// How long a client may use the credentials that it gets.
    pub ttl: Lifetime,
}

#[derive(Clone, Debug)]
pub enum Registration {
    Closed,
    /// With this registration token.
    Token(Secret),
    Open,
}

impl Config {
    /// The settings of `file` ([`Settings::local`] without one), with the secrets from a directory of
    /// `credentials`.
    pub fn load(file: Option<&Path>, credentials: Option<&Path>) -> Result<Self, Error> {
        let mut settings = Settings::load(file)?;
        if let Some(directory) = credentials {
            settings.load_credentials(directory)?;
        }
        let config = Self::try_from(settings)?;
        Ok(Self {
            file: file.map(Path::to_owned),
            ..config
        })
    }

    /// Where clients reach the server. A public server name is served at its own host, by a TLS listener
    /// or a reverse proxy; a local one at the first listener. `None` if there is no listener.
    pub fn client_url(&self) -> Option<String> {
        if let Some(url) = &self.public_url {
            return Some(url.to_string());
        }
        if !self.is_local() {
            return Some(format!("https://{}", self.server_name));
        }
        let (scheme, address) = match (self.listen.addresses.first(), &self.tls) {
            (Some(address), _) => ("http", address),
            (None, tls) => ("https", tls.as_ref()?.listen.first()?),
        };
        let (host, port) = (self.server_name.host(), address.port());
        Some(format!("{scheme}://{host}:{port}"))
    }

    /// The URL of the authority that certificates come from.
    pub fn acme_directory(&self) -> Option<&str> {
        match &self.tls.as_ref()?.source {
            CertificateSource::Acme(acme) => Some(&acme.directory),
            CertificateSource::Files(_) => None,
        }
    }

    /// Whether the server name is localhost.
    pub fn is_local(&self) -> bool {
        is_local(&self.server_name)
    }
}

impl TryFrom<Settings> for Config {
    type Error = Error;

    fn try_from(settings: Settings) -> Result<Self, Error> {
        let registration = registration(&settings)?;
        let tls = Tls::of(&settings)?;
        let turn = turn(settings.turn_uris, settings.turn_secret, settings.turn_ttl)?;
        if settings.listen == Listen::default() && tls.is_none() {
            return Err(Error::Contradiction(
                "`listen` and `tls_listen` are both empty: nobody could reach the server; \
                 give one of them an address",
            ));
        }
        let notices_user = notices_user(&settings.server_notices_localpart, &settings.server_name)?;
        Ok(Self {
            server_name: settings.server_name,
            data_dir: settings.data_dir,
            backup_dir: settings.backup_dir,
            file: None,
            listen: settings.listen,
            tls,
            public_url: settings.public_url,
            contact: settings.contact,
            metrics_listen: settings.metrics_listen.0,
            trusted_proxies: settings.trusted_proxies,
            registration,
            registration_shared_secret: settings.registration_shared_secret,
            federation: settings.federation,
            notaries: settings.notaries,
            extra_ca: settings.extra_ca,
            allow_private_addresses: settings.allow_private_addresses,
            memory: settings.memory.unwrap_or_else(Memory::of_cgroup),
            max_upload: settings.max_upload,
            user_quota: settings.user_quota,
            disk: settings.disk,
            cache_leaves_disk_free: true,
            network: Network::default(),
            unauthenticated_media: settings.unauthenticated_media,
            url_previews: settings.url_previews,
            search: settings.search,
            turn,
            user_directory: settings.user_directory,
            notices_user,
            push_gateways: settings.push_gateways,
            share_device_names: settings.share_device_names,
            rate_limits: settings.rate_limits,
            log: settings.log,
        })
    }
}

fn registration(settings: &Settings) -> Result<Registration, Error> {
    use self::settings::Registration as Kind;

    match (settings.registration, &settings.registration_token) {
        (Kind::Closed, _) => Ok(Registration::Closed),
        (Kind::Token, Some(token)) if !token.expose().is_empty() => {
            Ok(Registration::Token(token.clone()))
        }
        (Kind::Token, _) => Err(Error::Contradiction(
            "`registration = \"token\"` needs a `registration_token`: \
             choose one and give it to the people you invite",
        )),
        (Kind::Open, Some(_)) => Err(Error::Contradiction(
            "`registration = \"open\"` lets everybody in without the `registration_token`; \
             set `registration = \"token\"` to ask for it, or remove the token",
        )),
        (Kind::Open, None) if reachable(settings) => Err(Error::Contradiction(
            "`registration = \"open\"` would let anybody in the world make an account here; \
             set `registration = \"token\"` and a `registration_token`, \
             or `registration = \"closed\"`",
        )),
        (Kind::Open, None) => Ok(Registration::Open),
    }
}

/// Whether other machines can reach the server: by its name, or because it does not listen on loopback
/// addresses only.
fn reachable(settings: &Settings) -> bool {
    let mut addresses = settings
        .listen
        .addresses
        .iter()
        .chain(&settings.tls_listen.0);
    !is_local(&settings.server_name) || addresses.any(|address| !address.ip().is_loopback())
}

fn turn(uris: Vec<String>, secret: Option<Secret>, ttl: Lifetime) -> Result<Option<Turn>, Error> {
    let is_turn = |uri: &String| uri.starts_with("turn:") || uri.starts_with("turns:");
    match secret {
        _ if !uris.iter().all(is_turn) => Err(Error::Contradiction(
            "each of `turn_uris` begins with `turn:` or `turns:`, \
             as \"turn:turn.example.org:3478?transport=udp\"",
        )),
        None if uris.is_empty() => Ok(None),
        Some(secret) if !uris.is_empty() && !secret.expose().is_empty() => {
            Ok(Some(Turn { uris, secret, ttl }))
        }
        _ => Err(Error::Contradiction(
            "`turn_uris` needs the `turn_secret` of the TURN server (in coturn, \
             `static-auth-secret`), and `turn_secret` needs `turn_uris`",
        )),
    }
}

fn notices_user(localpart: &str, server: &ServerName) -> Result<OwnedUserId, Error> {
    let conforms = localpart_is_fully_conforming(localpart).is_ok_and(|conforms| conforms);
    let user = UserId::parse(format!("@{localpart}:{server}"));
    let user = user
        .ok()
        .filter(|user| conforms && user.validate_strict().is_ok());
    user.ok_or(Error::Contradiction(
        "`server_notices_localpart` has to be a user name without `@` and server, as \"notices\": \
         only the characters a-z, 0-9, and . _ = - / +",
    ))
}

#[cfg(test)]
mod tests {
    use super::{Config, Error, Registration, Settings};

    fn config(text: &str) -> Result<Config, Error> {
        Settings::parse(text)?.try_into()
    }

    fn refusal(text: &str) -> String {
        config(text)
            .expect_err("these settings are refused")
            .to_string()
    }

    #[test]
    fn without_a_file_registration_is_open_on_localhost_only() {
        let config = Config::load(None, None).unwrap();
        assert!(matches!(config.registration, Registration::Open));
        assert!(config.is_local());
        assert!(
            config
                .listen
                .addresses
                .iter()
                .all(|address| address.ip().is_loopback())
        );
    }

    #[test]
    fn with_a_file_registration_is_closed_by_default() {
        let config = config("").unwrap();
        assert!(matches!(config.registration, Registration::Closed));
    }

    #[test]
    fn a_public_name_with_open_registration_is_refused_with_advice() {
        let message = refusal("server_name = \"example.org\"\nregistration = \"open\"");
        assert!(message.contains("`registration = \"token\"`"), "{message}");
    }

    #[test]
    fn open_registration_is_refused_when_others_can_connect() {
        for listen in ["0.0.0.0:8008", "[::]:8008", "192.168.1.2:8008"] {
            refusal(&format!("listen = [\"{listen}\"]\nregistration = \"open\""));
        }
        for name in ["localhost", "hs.localhost", "127.0.0.1:8008", "[::1]:8008"] {
            config(&format!(
                "server_name = \"{name}\"\nregistration = \"open\""
            ))
            .unwrap();
        }
    }

    #[test]
    fn registration_by_token_needs_a_token_and_open_registration_has_none() {
        refusal("registration = \"token\"");
        refusal("registration = \"token\"\nregistration_token = \"\"");
        refusal("registration = \"open\"\nregistration_token = \"hello\"");
        let text = "server_name = \"example.org\"\n\
                    registration = \"token\"\nregistration_token = \"hello\"";
        let Registration::Token(token) = config(text).unwrap().registration else {
            panic!("registration by token");
        };
        assert_eq!(token.expose(), "hello");
    }

    #[test]
    fn a_turn_server_has_addresses_and_a_secret() {
        refusal("turn_uris = [\"turn:turn.example.org\"]");
        refusal("turn_secret = \"hush\"");
        refusal("turn_uris = [\"turn:turn.example.org\"]\nturn_secret = \"\"");
        refusal("turn_uris = [\"https://turn.example.org\"]\nturn_secret = \"hush\"");
        let text = "turn_uris = [\"turns:turn.example.org\"]\nturn_secret = \"hush\"\n\
                    turn_ttl = \"2h\"";
        let turn = config(text).unwrap().turn.unwrap();
        assert_eq!(turn.uris, ["turns:turn.example.org"]);
        assert_eq!(turn.ttl.0.as_secs(), 7200);
    }

    #[test]
    fn the_sender_of_server_notices_is_a_user_of_this_server() {
        let settings = config("server_name = \"example.org\"").unwrap();
        assert_eq!(settings.notices_user, "@notices:example.org");
        for bad in ["", "@notices", "notices:example.org", "No Tices"] {
            refusal(&format!("server_notices_localpart = \"{bad}\""));
        }
    }

    #[test]
    fn a_server_without_listeners_is_refused() {
        assert!(refusal("listen = []").contains("`listen`"));
    }

    #[test]
    fn debug_output_has_no_secrets() {
        let text = "registration = \"token\"\nregistration_token = \"swordfish\"\n\
                    registration_shared_secret = \"swordfish\"\n\
                    turn_uris = [\"turn:a\"]\nturn_secret = \"swordfish\"";
        let printed = format!("{:?} {:?}", Settings::parse(text), config(text));
        assert!(!printed.contains("swordfish"), "{printed}");
    }
}
