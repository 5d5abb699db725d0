//! What the daemon asks of the kernel for itself at start, so that it can go on when memory is
//! short: it may be what the kernel waits for to get memory back. All best effort: each refusal is
//! logged once, at info, and the mount goes on.

use std::fmt::Display;
use std::fs::File;

use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit};

/// Does it all. Called before there are threads: they inherit it.
pub fn apply() {
    rustix::process::umask(Mode::empty());
    attempt("leaving the current directory", rustix::process::chdir("/"));
    attempt("closing standard input", null_stdin());
    attempt("raising the limit of open files", raise_open_files());
    // Allocations of this process then never start I/O of their own, which could wait for us.
    attempt("PR_SET_IO_FLUSHER", rustix::process::configure_io_flusher_behavior(true));
    attempt("oom_score_adj", std::fs::write("/proc/self/oom_score_adj", "-1000"));
    match may_lock_all() {
        // ONFAULT: pages stay once they are there, but stacks and buffers are not filled in advance.
        true => attempt(
            "mlockall",
            rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT),
        ),
        false => log::info!("mlockall left out: the limit of locked memory allows the bitmap's pages only"),
    }
}

fn attempt<E: Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        log::info!("{what} refused: {error}; going on without");
    }
}

fn null_stdin() -> std::io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

fn raise_open_files() -> rustix::io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
}

/// With a limit in force, MCL_FUTURE would make later allocations fail: worse than being swapped.
fn may_lock_all() -> bool {
    rustix::process::getrlimit(Resource::Memlock).current.is_none() || has_capability(CAP_IPC_LOCK)
}

/// The bit of CAP_IPC_LOCK in a capability mask.
const CAP_IPC_LOCK: u32 = 14;

fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> number & 1 == 1)
}
