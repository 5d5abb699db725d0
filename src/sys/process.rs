//! What keeps the daemon alive and moving when memory is short. Each is worth having and none is
//! needed: callers log a failure and go on.

use std::io;

use rustix::mm::MlockAllFlags;

use super::uninterrupted;

/// Tells the kernel that this process is in the path of write-back, so that its allocations never
/// wait for write-back to its own mount. Needs CAP_SYS_RESOURCE; threads made later inherit it.
pub fn set_io_flusher() -> io::Result<()> {
    uninterrupted(|| rustix::process::configure_io_flusher_behavior(true))
}

/// Keeps all memory of the process resident, now and from now on. What is mapped later becomes
/// resident when it is first touched, so that large reservations cost nothing.
pub fn lock_all_memory() -> io::Result<()> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    uninterrupted(|| rustix::mm::mlockall(flags))
}

/// Sets how readily the kernel kills this process when memory runs out: -1000 (never) to 1000.
/// Lowering it needs CAP_SYS_RESOURCE.
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}
