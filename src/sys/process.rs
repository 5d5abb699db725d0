//! Processes: what std and rustix leave to us.

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

/// The supplementary groups of a process or thread.
pub fn groups_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    Ok(line.split_whitespace().filter_map(|group| group.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_that_the_kernel_counts() {
        let mut own: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        let mut read = groups_of(std::process::id()).unwrap();
        own.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, own);
        assert!(groups_of(u32::MAX).is_err(), "no process has this number");
    }
}
