//! Commands that a server executes: the running one, which is asked through its socket, or else one that this
//! process starts for the command (`server::offline`). Both have the same operations (`api/admin/`).

use std::{
    io::{self, IsTerminal},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use log::LevelFilter;
use serde_json::Value;
use smol::{Async, Timer, future};
use smol_hyper::rt::FuturesIo;

use super::{config, output::finish, table::printable};
use crate::{
    http::{Edge, admin_socket_path, is_own_admin_socket},
    logging, server, store,
};

const PREFIX: &str = "/_hearth/admin/v1/";
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// When somebody at a terminal gets a hint that the server takes long.
const HINT_AFTER: Duration = Duration::from_secs(1);
/// No operation takes longer; what does runs in the background.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(5);

/// Declares the arguments of a command that a server executes.
macro_rules! command {
    (
        $(#[$($attribute:tt)*])*
        $name:ident $text:tt { $($fields:tt)* }
    ) => {
        $(#[$($attribute)*])*
        #[derive(argh::FromArgs)]
        #[argh(subcommand, name = $text)]
        pub(super) struct $name {
            /// the file with the settings (default: /etc/hearth/hearth.toml)
            #[argh(option)]
            config: Option<std::path::PathBuf>,
            /// print JSON
            #[argh(switch)]
            json: bool,
            $($fields)*
        }

        impl $name {
            fn options(&self) -> crate::cli::admin::Options {
                crate::cli::admin::Options {
                    config: self.config.clone(),
                    json: self.json,
                }
            }
        }
    };
}
pub(super) use command;

/// What every command has.
pub(super) struct Options {
    pub config: Option<PathBuf>,
    pub json: bool,
}

impl Options {
    /// Requests `operation` and prints the response: as JSON, or as `show` formats it.
    pub(super) fn run(
        self,
        operation: &str,
        request: &Value,
        show: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        self.run_with(async |admin| admin.request(operation, request).await, show)
    }

    /// The same with several requests.
    pub(super) fn run_with(
        self,
        action: impl AsyncFnOnce(&Admin<'_>) -> Result<Value, Error>,
        show: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        let response = match self.perform(action) {
            Ok(response) => response,
            Err(code) => return code,
        };
        let text = match self.json {
            true => format!("{response:#}\n"),
            false => show(&response),
        };
        let code = finish(&text);
        if code != ExitCode::SUCCESS
            && let (Some(user), Some(_)) =
                (response["user_id"].as_str(), response["password"].as_str())
        {
            eprintln!(
                "hearth: a made-up password of {user} was set, which nobody has seen; `hearth user password` \
                 sets another"
            );
        }
        code
    }

    /// Prints only why there is no response.
    pub(super) fn perform(
        &self,
        action: impl AsyncFnOnce(&Admin<'_>) -> Result<Value, Error>,
    ) -> Result<Value, ExitCode> {
        let file = config::file_of_server(self.config.clone());
        with_server(file.as_deref(), action)?.map_err(|error| {
            eprintln!("hearth: {error}");
            ExitCode::FAILURE
        })
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The server's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the server's answer cannot be understood: it has the status {0}")]
    Invalid(StatusCode),
    #[error(
        "cannot connect to {}: run this command as root, or as the user whom hearth runs as",
        .0.display()
    )]
    Permission(PathBuf),
    #[error(
        "{} is a socket of another user, not of the server: nothing was sent there. Look who can write to this \
         directory, and restart hearth",
        .0.display()
    )]
    Foreign(PathBuf),
    #[error("cannot talk to the server at {}: {error}", path.display())]
    Connection { path: PathBuf, error: io::Error },
    #[error(
        "the server at {} did not answer: {error}. It is not known whether it has done what was asked",
        path.display()
    )]
    Lost { path: PathBuf, error: String },
    #[error(
        "the data in {} are in use by hearth or by another of its commands, and nobody answers at hearth.sock \
         there. Try again in a moment; `journalctl -u hearth` shows the log of the server",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(transparent)]
    Server(#[from] server::Error),
}

/// A server that executes operations.
pub(super) enum Admin<'a> {
    Running { data_dir: PathBuf },
    Offline(&'a Edge),
}

fn with_server(
    file: Option<&Path>,
    action: impl AsyncFnOnce(&Admin<'_>) -> Result<Value, Error>,
) -> Result<Result<Value, Error>, ExitCode> {
    let data_dir = config::data_dir(file)?;
    let socket = admin_socket_path(&data_dir);
    // It is closed at once: a request has a connection of its own.
    match UnixStream::connect(&socket).map(drop) {
        Ok(()) => return Ok(smol::block_on(action(&Admin::Running { data_dir }))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Err(Error::Permission(socket)));
        }
        // There is no socket, or nobody listens any more.
        Err(_) => {}
    }
    let config = config::load(file)?;
    logging::start(config.log.min(LevelFilter::Warn));
    let result = server::offline(config, async |edge| action(&Admin::Offline(edge)).await);
    Ok(result.unwrap_or_else(|error| match error {
        server::Error::Open {
            path,
            error: store::Error::InUse,
        } => Err(Error::InUse(path)),
        error => Err(error.into()),
    }))
}

impl Admin<'_> {
    pub(super) async fn request(&self, operation: &str, request: &Value) -> Result<Value, Error> {
        let request = Request::post(format!("{PREFIX}{operation}"))
            .header(header::HOST, "hearth")
            .header(header::CONTENT_TYPE, "application/json")
            .body(request.to_string().into_bytes())
            .expect("the operation is a path");
        let hint = async {
            Timer::after(HINT_AFTER).await;
            if io::stderr().is_terminal() {
                eprintln!("waiting for the server …");
            }
            future::pending().await
        };
        let response = future::or(self.respond(request), hint).await?;
        let status = response.status();
        let body: Value =
            serde_json::from_slice(response.body()).map_err(|_| Error::Invalid(status))?;
        if status.is_success() {
            return Ok(body);
        }
        let message = body["error"].as_str().ok_or(Error::Invalid(status))?;
        let mut message = printable(message);
        if status == StatusCode::INSUFFICIENT_STORAGE {
            message += "; make room on it (`hearth media usage` shows how much media use)";
        }
        Err(Error::Refused(message))
    }

    async fn respond(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Error> {
        let data_dir = match self {
            Self::Offline(edge) => return Ok(edge.respond(request).await),
            Self::Running { data_dir } => data_dir,
        };
        let path = admin_socket_path(data_dir);
        let stream = Async::<UnixStream>::connect(&path).await;
        match stream.and_then(|stream| Ok((is_own_admin_socket(data_dir)?, stream))) {
            Ok((true, stream)) => {
                let timeout = async {
                    Timer::after(RESPONSE_TIMEOUT).await;
                    Err("it takes too long".into())
                };
                let response = future::or(send(stream, request), timeout).await;
                response.map_err(|error| Error::Lost {
                    path,
                    error: error.to_string(),
                })
            }
            Ok((false, _)) => Err(Error::Foreign(path)),
            Err(error) => Err(Error::Connection { path, error }),
        }
    }
}

async fn send(
    stream: Async<UnixStream>,
    request: Request<Vec<u8>>,
) -> Result<Response<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(FuturesIo::new(stream)).await?;
    let response = async {
        let request = request.map(|body| Full::new(Bytes::from(body)));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes().to_vec()))
    };
    let connection = async {
        // The response, or its absence, says all.
        let _ = connection.await;
        future::pending().await
    };
    future::or(response, connection).await
}
