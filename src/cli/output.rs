//! The standard output.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Prints `text`. Whoever reads the output may have closed it, as `head` does: that is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Prints all that a command has to say.
pub(super) fn finish(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: the output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
