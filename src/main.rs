//! The `hearth` program.

use std::process::ExitCode;

/// The same allocator in all builds. glibc has an arena per thread and keeps freed memory, musl's
/// allocator is slow (figures in `cross/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    purge_freed_memory();
    hearth::cli::main()
}

/// Makes the allocator return freed memory to the system at once. Otherwise it does so later, and only
/// when it is called again: after a log-in an idle server would keep the 20 MB of the password hash.
///
/// The allocator reads this from the environment when the process starts, and setting it otherwise
/// needs unsafe code. So the program starts itself again, as the same process, unless the variable is
/// set.
#[cfg(target_os = "linux")]
fn purge_freed_memory() {
    use std::{env, os::unix::process::CommandExt, process::Command};

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // `exec` returns only if it fails, and the program then runs with the default.
    let _ = command.args(arguments).env(VARIABLE, "0").exec();
}
