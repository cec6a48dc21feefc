//! The `hearth` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    heap::share();
    hearth::cli::main()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod heap {
    //! One heap for all threads.
    //!
    //! glibc gives each thread a heap of its own. The pages that the store keeps are read on one
    //! thread and freed by another, so that each heap grows to the size of the whole cache: twice
    //! what the `memory` setting allows, where one heap stays within a tenth of it. How many there
    //! are can be said without unsafe code only in the environment in which the program starts.

    use std::{env, os::unix::process::CommandExt, process::Command};

    /// The variable that glibc reads.
    const HEAPS: &str = "MALLOC_ARENA_MAX";

    /// Starts the program again, as the same process, unless the variable is set.
    pub fn share() {
        let Ok(program) = env::current_exe() else {
            return;
        };
        if env::var_os(HEAPS).is_some() {
            return;
        }
        let mut arguments = env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // It returns only if it fails, and the program then runs as it is.
        let _ = again.args(arguments).env(HEAPS, "1").exec();
    }
}
