//! The arguments of `hearth setup`.

use std::path::PathBuf;

use argh::FromArgs;

/// Set up a new server: write its settings, start it as a service, and make the first account. What the options
/// do not say is asked for.
#[derive(FromArgs)]
#[argh(subcommand, name = "setup")]
pub struct Setup {
    /// the server name: the part after the colon in @you:example.org
    #[argh(option)]
    pub name: Option<String>,
    /// where apps reach the server, if not at https:// and its name
    #[argh(option)]
    pub url: Option<String>,
    /// get the certificate from Let's Encrypt, with this e-mail address
    #[argh(option)]
    pub acme: Option<String>,
    /// leave TLS to a reverse proxy in front of the server
    #[argh(switch)]
    pub proxy: bool,
    /// who can make an account: closed (only who is invited) or token (who has the registration token)
    #[argh(option)]
    pub registration: Option<String>,
    /// how much memory the server may use, such as 128M
    #[argh(option)]
    pub memory: Option<String>,
    /// how much of the disk all data may use, such as 8G
    #[argh(option)]
    pub disk: Option<String>,
    /// another setting, such as --set 'log = "debug"'
    #[argh(option)]
    pub set: Vec<String>,
    /// the directory for the data (default: /var/lib/hearth, or ./hearth-data unless root runs this)
    #[argh(option)]
    pub data_dir: Option<PathBuf>,
    /// the file with the settings to write (default: /etc/hearth/hearth.toml, or ./hearth.toml unless root runs
    /// this)
    #[argh(option)]
    pub config: Option<PathBuf>,
    /// the name of the first account, who is the administrator
    #[argh(option)]
    pub user: Option<String>,
    /// make up the password of the first account, without asking
    #[argh(switch)]
    pub generate: bool,
    /// take the first line of the standard input as that password
    #[argh(switch)]
    pub password_stdin: bool,
    /// make no account
    #[argh(switch)]
    pub no_account: bool,
    /// do not enable and start the service
    #[argh(switch)]
    pub no_start: bool,
    /// replace the file with the settings if there is one
    #[argh(switch)]
    pub overwrite: bool,
    /// ask nothing: what the options do not say has its default
    #[argh(switch)]
    pub yes: bool,
}
