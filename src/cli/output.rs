//! The standard output.

use std::io::{self, Write};

/// Whoever reads the output may have closed it, as `head` does. That is no error.
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
