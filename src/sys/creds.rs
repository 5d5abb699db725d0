//! The identity with which the calling thread, and only it, meets the filesystem.
//!
//! The C library's setuid and its kin change all threads of the process; what is used here changes one.
//! A thread's capabilities must not be changed in any other way once it has been in [`Borrowed`]. A thread
//! that it starts meanwhile shares its umask, so files made elsewhere in the daemon get their mode set.
//!
//! Invariant: a thread leaves [`Borrowed`] with exactly the identity, the capabilities and the umask
//! that it had when it entered.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;

use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::uninterrupted;

/// What a thread is, read once for each thread.
#[derive(Clone, Copy)]
struct Thread {
    uid: u32,
    gid: u32,
    caps: CapabilitySets,
}

thread_local!(static THREAD: Cell<Option<Thread>> = const { Cell::new(None) });

/// The calling thread's capabilities, as they are in effect.
pub fn effective_capabilities() -> io::Result<CapabilitySet> {
    Ok(uninterrupted(|| rustix::thread::capabilities(None))?.effective)
}

/// Reads what the thread is and gives it a umask of its own, the first time that it is asked.
fn this_thread() -> io::Result<Thread> {
    if let Some(known) = THREAD.get() {
        return Ok(known);
    }
    // SAFETY: CLONE_FS only stops this thread from sharing its umask, current directory and root with
    // the others; no descriptor is affected.
    uninterrupted(|| unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) })?;
    let thread = Thread {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        caps: uninterrupted(|| rustix::thread::capabilities(None))?,
    };
    THREAD.set(Some(thread));
    Ok(thread)
}

/// Gives the calling thread a umask that no other thread shares, for the programs that it starts.
pub fn own_umask(umask: Mode) -> io::Result<()> {
    this_thread()?;
    rustix::process::umask(umask);
    Ok(())
}

/// An identity that the calling thread has borrowed; given back when this is dropped.
pub struct Borrowed {
    own: Thread,
    switched: bool,
    umask: Mode,
    /// The identity is the thread's: this must be dropped where it was made.
    _not_send: PhantomData<*const ()>,
}

impl Borrowed {
    /// Makes the calling thread create files as `uid` and `gid` under `umask`. Of its capabilities only those in
    /// `keep` stay in effect, unless `uid` is its own.
    ///
    /// Without CAP_SETUID and CAP_SETGID only the umask is taken on: an ordinary user's daemon
    /// makes its own files.
    pub fn new(uid: u32, gid: u32, umask: u32, keep: CapabilitySet) -> io::Result<Borrowed> {
        let own = this_thread()?;
        let may_switch = own.caps.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
        let switched = may_switch && (uid, gid) != (own.uid, own.gid);
        let umask = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        // From here on dropping it restores everything, also when the switch fails half way.
        let borrowed = Borrowed { own, switched, umask, _not_send: PhantomData };
        if switched {
            set_fs_ids(uid, gid)?;
            if uid != own.uid {
                let effective = own.caps.permitted & keep;
                uninterrupted(|| {
                    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..own.caps })
                })?;
            }
        }
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        rustix::process::umask(self.umask);
        if !self.switched {
            return;
        }
        // Going on as somebody else would give files a wrong owner and lack privilege at random later:
        // nothing sane is left to do. It cannot happen, as these are the thread's own real values.
        set_fs_ids(self.own.uid, self.own.gid).expect("a thread may always return to its own identity");
        uninterrupted(|| rustix::thread::set_capabilities(None, self.own.caps))
            .expect("a thread may always make its permitted capabilities effective");
    }
}

/// Sets the filesystem user and group of this thread. The calls themselves never report an error.
fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers; the C library passes it on for this thread only.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // An invalid id changes nothing and gives the present one.
    // SAFETY: as above.
    let now_gid = unsafe { libc::setfsgid(u32::MAX) } as u32;
    // SAFETY: as above.
    let now_uid = unsafe { libc::setfsuid(u32::MAX) } as u32;
    if (now_uid, now_gid) == (uid, gid) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
