//! Processes: the one call that std and rustix leave to us.

use std::io;

/// Which side of a fork(2) this is.
pub enum Forked {
    /// The caller, and its child's process number.
    Parent(i32),
    /// The new process.
    Child,
}

/// Splits the process in two. Refused (EBUSY) once there is more than one thread: the child would
/// have only the calling one, and the locks that the others held would stay locked for ever.
pub fn fork() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: takes no argument; the process has one thread, as was just seen, so the child's
    // memory is whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent(child)),
    }
}
