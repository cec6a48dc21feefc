//! Agent for matrix-sdk-ui, the engine of Element X: executes one command per line of standard input, and
//! writes results and observations as JSON lines to standard output. `../clients/client.py` is the other side
//! and describes the protocol.
//!
//! Its observations are snapshots of what an app would show, each time that changes:
//! - `sync`: the `state` of the `SyncService`
//! - `count`: how many `rooms` there are, as the server says
//! - `rooms`: the room list, with the filter and the number of pages of now
//! - `timeline`: the `items` of an open timeline, which has a `key`

#![recursion_limit = "256"]

mod app;
mod snapshot;

use std::{error::Error, io, rc::Rc, thread};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    runtime,
    task::{LocalSet, spawn_local},
};

use crate::app::App;

type Result<T = Value> = std::result::Result<T, Box<dyn Error>>;

/// Futures of the SDK are large without optimization.
const STACK_BYTES: usize = 256 << 20;

fn main() -> Result<()> {
    let url = std::env::args()
        .nth(1)
        .ok_or("expected the URL of the server")?;
    let run = move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(LocalSet::new().run_until(run(url)))
    };
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(run)?;
    Ok(thread.join().map_err(|_| "the agent panicked")??)
}

async fn run(url: String) -> io::Result<()> {
    let app = Rc::new(App::new(url));
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let app = app.clone();
        spawn_local(async move {
            let request: Value = serde_json::from_str(&line).expect("a command in JSON");
            let number = &request["number"];
            write(&match app.execute(&request).await {
                Ok(result) => json!({ "number": number, "result": result }),
                Err(error) => json!({ "number": number, "error": error_chain(&*error) }),
            });
        });
    }
    Ok(())
}

fn observed(what: &str, mut fields: Value) {
    fields["observed"] = what.into();
    write(&fields);
}

fn write(message: &Value) {
    println!("{message}");
}

fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
