use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use argh::FromArgs;

use super::config;
use crate::{
    config::{Config, Registration},
    logging, server,
    systemd::{self, Sockets},
};

/// Run the server until it is asked to stop.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
pub(super) struct Serve {
    /// the file with the settings; without one, a server that only this machine can reach
    #[argh(option)]
    config: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        let sockets = match Sockets::from_env() {
            Ok(sockets) => sockets,
            Err(error) => {
                eprintln!("hearth: cannot use the sockets of systemd: {error}");
                return ExitCode::from(2);
            }
        };
        let config = match config::load(self.config.as_deref()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let greeting = greeting(&config, self.config.is_some());
        let name = config.server_name.clone();
        let greet = || {
            if systemd::journal_reads_stderr() {
                log::info!("version {} serves {name}", env!("CARGO_PKG_VERSION"));
            } else {
                // Standard output may be closed.
                let _ = io::stdout().write_all(greeting.as_bytes());
            }
        };
        match server::run(config, sockets, greet) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{error}");
                // The unit of systemd does not restart the server after status 2.
                ExitCode::from(if error.needs_owner() { 2 } else { 1 })
            }
        }
    }
}

/// For the person who started the server in a terminal.
fn greeting(config: &Config, has_file: bool) -> String {
    let mut text = format!("hearth serves {}\n", config.server_name);
    for address in &config.listen.addresses {
        text += &format!("  http://{address}\n");
    }
    for path in &config.listen.paths {
        text += &format!("  {}\n", path.display());
    }
    for address in config.tls.iter().flat_map(|tls| &tls.listen) {
        text += &format!("  https://{address}\n");
    }
    if let Some(url) = config.client_url() {
        text += &format!("In a Matrix app the homeserver is {url}\n");
    }
    text += match config.registration {
        Registration::Open => "Make an account there: registration is open.\n",
        Registration::Token(_) => "New accounts need the registration token.\n",
        Registration::Closed => "Registration is closed.\n",
    };
    if !has_file {
        text += "Nobody but this machine can reach it. For a server with a name of its own, \
                 write a hearth.toml and start `hearth serve --config hearth.toml`.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::greeting;
    use crate::config::{Config, Settings};

    #[test]
    fn the_greeting_names_the_address_under_which_apps_reach_the_server() {
        let greeting_of = |setting: &str| {
            let settings = format!("server_name = \"example.org\"\n{setting}");
            let config = Settings::parse(&settings).and_then(Config::try_from);
            greeting(&config.unwrap(), true)
        };
        let named = |url: &str| format!("In a Matrix app the homeserver is {url}\n");
        let url = "https://matrix.example.org:8443";
        assert!(greeting_of(&format!("public_url = \"{url}\"")).contains(&named(url)));
        assert!(greeting_of("").contains(&named("https://example.org")));
    }
}
