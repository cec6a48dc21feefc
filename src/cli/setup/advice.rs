//! What is left to do for the owner, and what to enter in an app.

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
};

use qrcode::{QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

use super::{
    answers::{Answers, Registration},
    machine,
};
use crate::config::{CertificateSource, Config, PublicUrl};

/// `account` is the response to the request that made the first account.
pub(super) fn of(answers: &Answers, config: &Config, account: Option<&Value>) -> String {
    let mut text = String::new();
    if !config.is_local() {
        text += &dns(config);
        text += &reachability(config);
        text += &well_known(config).unwrap_or_default();
    }
    if let Registration::Token(token) = &answers.registration {
        text += &format!("\nWhoever is to make an account needs the registration token {token}\n");
    } else if !config.is_local() {
        text += "\nInvite others with `hearth invite new`.\n";
    }
    if let Some(account) = account {
        text += &app(config, account);
    }
    text
}

/// The host at which apps and other servers connect.
fn host(config: &Config) -> &str {
    let public = config.public_url.as_ref().and_then(PublicUrl::host);
    public.unwrap_or_else(|| config.server_name.host())
}

fn dns(config: &Config) -> String {
    let host = host(config);
    let found = machine::addresses(host).unwrap_or_default();
    if found.iter().any(|address| machine::is_here(*address)) {
        return format!("\nDNS: {host} leads to this computer.\n");
    }
    let (v4, v6) = machine::public_addresses();
    let v4 = v4.map_or_else(
        || "the IPv4 address that your router has on the internet".to_owned(),
        |a| a.to_string(),
    );
    let mut text = format!(
        "\nDNS records, to be entered where the domain was bought:\n  {host}.  A     {v4}\n"
    );
    if let Some(v6) = v6 {
        text += &format!("  {host}.  AAAA  {v6}\n");
    }
    text
}

fn reachability(config: &Config) -> String {
    if let Some(tls) = &config.tls {
        let to = match tls.listen.first().map(SocketAddr::port) {
            Some(port) if port != 443 => format!("port {port} of this computer"),
            _ => "this computer".to_owned(),
        };
        let certificate = match &tls.source {
            CertificateSource::Acme(_) => {
                "Then the certificate comes by itself; `hearth status` shows it."
            }
            CertificateSource::Files(_) => {
                "hearth reads the certificate in `tls_certificate` again when it is renewed there, and renews \
                 none itself."
            }
        };
        return format!("\nThe router has to forward port 443 to {to}. {certificate}\n");
    }
    let listen = match (config.listen.addresses.first(), config.listen.paths.first()) {
        (Some(address), _) => format!("http://{address}"),
        (None, path) => format!(
            "the socket {}",
            path.map_or("".into(), |path| path.to_string_lossy())
        ),
    };
    format!(
        "\nThe reverse proxy for {} has to pass all requests on to {listen}, with X-Forwarded-For and \
         Host; the README has lines for nginx and Caddy.\n",
        host(config)
    )
}

/// The answers of another web site that send apps and servers here: client-server API, "Well-known URIs";
/// server-server API, "Server discovery".
fn well_known(config: &Config) -> Option<String> {
    let url = config.public_url.as_ref()?;
    let name = &config.server_name;
    if url.host() == Some(name.host()) {
        return None;
    }
    let server = json!({ "m.server": url.tls_authority()? });
    let client = json!({ "m.homeserver": { "base_url": url.to_string() } });
    Some(format!(
        "\nThe web site at https://{name} has to answer, both with the header\n\
         `Access-Control-Allow-Origin: *`:\n  \
         https://{name}/.well-known/matrix/server\n    {server}\n  \
         https://{name}/.well-known/matrix/client\n    {client}\n"
    ))
}

fn app(config: &Config, account: &Value) -> String {
    let user = account["user_id"].as_str().unwrap_or_default();
    let homeserver = match config.is_local() {
        true => config.client_url().unwrap_or_default(),
        false => config.server_name.to_string(),
    };
    let mut text = format!(
        "\nIn a Matrix app, such as Element X:\n  homeserver  {homeserver}\n  user        {user}\n"
    );
    text += &match account["password"].as_str() {
        Some(password) => format!("  password    {password}  (it is shown only once)\n"),
        None => "  password    the one that you have chosen\n".to_owned(),
    };
    if io::stdout().is_terminal()
        && let Some(url) = config.client_url()
        && let Ok(code) = QrCode::new(&url)
    {
        text += &format!("\n{}\n{url}\n", code.render::<Dense1x2>().build());
    }
    text
}
