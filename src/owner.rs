//! One owner for a leg: an flock on `.mirrorfs/lock`, held while a mirror is mounted or somebody must
//! not be disturbed by one.
//!
//! The lock is the kernel's and ends with the last process that holds it, however that ends; the kernel also
//! says who that is. What is written in the file is only for people.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use log::debug;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::layout;
use crate::legs::LegId;

/// Why a lock was not had.
#[derive(Debug)]
pub enum Refused {
    /// Another process has it: which, when it can be told, and the message.
    InUse(Option<u32>, Error),
    /// It could not be asked for.
    Failed(Error),
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::InUse(_, error) | Refused::Failed(error) => error,
        }
    }
}

/// While it lives, this process (or one that inherited it) is the leg's only owner, or one of several
/// readers.
#[derive(Debug)]
pub struct Owner {
    lock: File,
    /// Written down in the file as its owner.
    recorded: bool,
}

impl Owner {
    /// For changing the leg: nobody else may own or read it. `state_dir` is its `.mirrorfs`, `path` is for
    /// the message. Who owns it is not written down before [`record`](Self::record).
    pub fn exclusive(state_dir: BorrowedFd<'_>, leg: LegId, path: &Path) -> Result<Owner, Refused> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(state_dir, layout::LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Refused::Failed(cannot_lock(Some(leg), path).because(e.into())))?;
        let owner = Owner { lock: File::from(lock), recorded: false };
        owner.take(FlockOperation::NonBlockingLockExclusive, Some(leg), path)?;
        Ok(owner)
    }

    /// For a mount that changes nothing, not even the lock file: as [`exclusive`](Self::exclusive), on a
    /// filesystem that may be read-only.
    pub fn exclusive_without_a_trace(
        state_dir: BorrowedFd<'_>,
        leg: LegId,
        path: &Path,
    ) -> Result<Owner, Refused> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(state_dir, layout::LOCK, flags, Mode::empty())
            .map_err(|e| Refused::Failed(cannot_lock(Some(leg), path).because(e.into())))?;
        let owner = Owner { lock: File::from(lock), recorded: false };
        owner.take(FlockOperation::NonBlockingLockExclusive, Some(leg), path)?;
        Ok(owner)
    }

    /// For reading a leg that is not mounted: others may read it too. `None` when it has no lock file yet,
    /// so never had an owner.
    pub fn shared(state_dir: BorrowedFd<'_>, path: &Path) -> Result<Option<Owner>, Refused> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = match rustix::fs::openat(state_dir, layout::LOCK, flags, Mode::empty()) {
            Ok(lock) => File::from(lock),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Refused::Failed(cannot_lock(None, path).because(error.into()))),
        };
        let owner = Owner { lock, recorded: false };
        owner.take(FlockOperation::NonBlockingLockShared, None, path)?;
        Ok(Some(owner))
    }

    /// Writes down the process that now holds the lock. Not before it is certain that the leg will be
    /// used: a refusal changes nothing on it. To be called again after a fork, by the child.
    pub fn record(&mut self) {
        self.recorded = true;
        let written = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        if let Err(error) = written {
            // FAIL-SAFE: only a message gets poorer; the lock itself is held.
            debug!("cannot write down who owns a leg: {error}");
        }
    }

    fn take(&self, how: FlockOperation, leg: Option<LegId>, path: &Path) -> Result<(), Refused> {
        match rustix::fs::flock(&self.lock, how) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(in_use(&self.lock, leg, path)),
            Err(error) => Err(Refused::Failed(cannot_lock(leg, path).because(error.into()))),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.recorded {
            // Best effort, as `record`: the next one to be refused should not be told of us.
            let _ = self.lock.set_len(0);
        }
    }
}

fn named(leg: Option<LegId>, path: &Path) -> String {
    match leg {
        Some(leg) => format!("leg {leg} at {}", path.display()),
        None => format!("the leg at {}", path.display()),
    }
}

fn cannot_lock(leg: Option<LegId>, path: &Path) -> Error {
    Error::new(format!("cannot take the lock of {}", named(leg, path)))
}

fn in_use(lock: &File, leg: Option<LegId>, path: &Path) -> Refused {
    let leg = named(leg, path);
    let holder = holder(lock);
    let error = match holder {
        Some(pid) if pid == std::process::id() => Error::new(format!("{leg} is still in use by this mount")).hint(
            "Requests from before are under way on it, and could still change it. They end when its filesystem answers \
             again, or is taken away. Then try again.",
        ),
        Some(pid) => Error::new(format!("{leg} is in use by {}", name_of(pid)))
            .hint("If it is mounted, umount it first; `mirrorfs status MOUNTPOINT` tells about it."),
        None => Error::new(format!("{leg} is in use by a process that cannot be seen from here")).hint(
            "Look for a mirrorfs of another user, in a container, or on another host that shares this disk.",
        ),
    };
    Refused::InUse(holder, error)
}

/// The process that holds an flock on this file, if it can be seen from here. Asks the kernel's table of locks
/// and looks at no descriptor of any process: one of them may lie on a disk or a mount that hangs.
fn holder(lock: &File) -> Option<u32> {
    let file = lock.metadata().ok()?;
    let device = format!("{:02x}:{:02x}", rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    let held: Vec<_> = table.lines().filter_map(flock_of).filter(|lock| lock.ino == file.ino()).collect();
    // btrfs tells another device here than stat(2) does.
    let exact = held.iter().find(|lock| lock.device == device);
    exact.or(held.first()).map(|lock| lock.pid)
}

/// A line of /proc/locks.
#[derive(Debug, PartialEq, Eq)]
struct Flock<'a> {
    pid: u32,
    device: &'a str,
    ino: u64,
}

/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:9162 0 EOF`. Who waits for a lock has an arrow behind the number.
fn flock_of(line: &str) -> Option<Flock<'_>> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    let (device, ino) = words.next()?.rsplit_once(':')?;
    Some(Flock { pid, device, ino: ino.parse().ok()? })
}

/// "process 4711 (mirrorfs mount /a /b /m)".
fn name_of(pid: u32) -> String {
    let command = command_of(pid).map_or_else(String::new, |command| format!(" ({command})"));
    format!("process {pid}{command}")
}

fn command_of(pid: u32) -> Option<String> {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = words.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    Some(words.join(" ").trim_end().to_owned()).filter(|command| !command.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn state_dir() -> (tempfile::TempDir, std::os::fd::OwnedFd) {
        let top = tempfile::tempdir().unwrap();
        let leg = layout::LegDir::open(top.path()).unwrap();
        let state = layout::make_state_dir(leg.as_fd()).unwrap();
        (top, state)
    }

    #[test]
    fn a_second_owner_is_refused() {
        let (top, state) = state_dir();
        let mut first = Owner::exclusive(state.as_fd(), LegId::A, top.path()).unwrap();
        first.record();
        // What somebody else has written there is not believed.
        std::fs::write(top.path().join(".mirrorfs/lock"), "1\n").unwrap();
        let error = Owner::exclusive(state.as_fd(), LegId::A, top.path()).unwrap_err();
        let error = Error::from(error).to_string();
        assert!(error.contains("still in use by this mount"), "{error}");
        assert!(Owner::shared(state.as_fd(), top.path()).is_err());
        drop(first);
        Owner::exclusive(state.as_fd(), LegId::A, top.path()).unwrap();
    }

    #[test]
    fn only_those_who_hold_a_lock_are_its_holders() {
        let held = Flock { pid: 4711, device: "08:01", ino: 9162 };
        assert_eq!(flock_of("1: FLOCK  ADVISORY  WRITE 4711 08:01:9162 0 EOF"), Some(held));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 4711 08:01:9162 0 EOF",
            "2: POSIX  ADVISORY  READ 4711 08:01:9162 128 128",
            "3: OFDLCK ADVISORY  WRITE -1 08:01:9162 0 EOF",
            "",
        ] {
            assert_eq!(flock_of(other), None, "{other}");
        }
    }

    #[test]
    fn readers_share_and_keep_owners_out() {
        let (top, state) = state_dir();
        assert!(Owner::shared(state.as_fd(), top.path()).unwrap().is_none(), "never had an owner");
        drop(Owner::exclusive(state.as_fd(), LegId::B, top.path()).unwrap());
        let first = Owner::shared(state.as_fd(), top.path()).unwrap();
        let second = Owner::shared(state.as_fd(), top.path()).unwrap();
        assert!(Owner::exclusive(state.as_fd(), LegId::B, top.path()).is_err());
        drop((first, second));
        Owner::exclusive(state.as_fd(), LegId::B, top.path()).unwrap();
    }

    #[test]
    fn what_a_killed_owner_left_in_the_file_does_not_matter() {
        let (top, state) = state_dir();
        std::fs::write(top.path().join(".mirrorfs/lock"), "1\n").unwrap();
        Owner::exclusive(state.as_fd(), LegId::A, top.path()).unwrap();
    }
}
