//! The `hearth` program.

use std::process::ExitCode;

/// musl's own heap takes two thirds more of the processor under load (figures in `cross/README.md`).
#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    heap::tune();
    hearth::cli::main()
}

#[cfg(target_os = "linux")]
mod heap {
    //! A heap that gives back what it does not need.
    //!
    //! How it behaves can be said without unsafe code only in the environment in which the program
    //! starts.

    use std::{env, os::unix::process::CommandExt, process::Command};

    /// The variable that glibc reads, for one heap for all threads.
    ///
    /// It gives each thread a heap of its own. The pages that the store keeps are read on one
    /// thread and freed by another, so that each heap grows to the size of the whole cache: twice
    /// what the `memory` setting allows, where one heap stays within a tenth of it.
    #[cfg(not(target_env = "musl"))]
    const SETTING: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

    /// The variable that mimalloc reads, for giving memory back at once.
    ///
    /// It does so later otherwise, but only when it is called again, which an idle server does not:
    /// after a log-in it would keep the 20 MB that checking a password takes.
    #[cfg(target_env = "musl")]
    const SETTING: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");

    /// Starts the program again, as the same process, unless the variable is set.
    pub fn tune() {
        let (variable, value) = SETTING;
        let Ok(program) = env::current_exe() else {
            return;
        };
        if env::var_os(variable).is_some() {
            return;
        }
        let mut arguments = env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // It returns only if it fails, and the program then runs as it is.
        let _ = again.args(arguments).env(variable, value).exec();
    }
}
