//! Runs the event loops of one mount, from the kernel's INIT to its end.
//!
//! Neither mounts nor unmounts: the descriptor comes from a mount that is there, and `serve` returns
//! when somebody has taken that away. (fuser's own unmounting takes what lies underneath, too.)

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};

use super::caches::Caches;
use super::caching::Caching;
use super::filesystem::Translation;
use super::loops::Loops;
use super::requests::Requests;
use crate::legs::Leg;
use crate::legs::timed::Couriers;
use crate::ops::{Invalidate, Mirror};

/// Largest write in one request, in bytes: what the kernel can gather (256 pages).
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have under way for nobody in particular: readahead, asynchronous
/// direct I/O, releases.
const MAX_BACKGROUND: u16 = 64;

/// What the mirror wants of the kernel, where the kernel has it. What is left out on purpose:
/// - WRITEBACK_CACHE acknowledges before the mirror knows (P1): only as an option, see [`Caching`];
/// - AUTO_INVAL_DATA drops cached data whenever an mtime moves, and two legs make mtimes move;
/// - ATOMIC_O_TRUNC: fuser drops the kill-suid bit of OPEN, and the kernel would go on with the mode
///   it has cached. A SETATTR follows the open instead, and its reply carries the new mode;
/// - POSIX_LOCKS, FLOCK_LOCKS: locks that only this kernel's programs take are best kept by it;
/// - SETXATTR_EXT, CREATE_SUPP_GROUP, SECURITY_CTX: requests in a form that fuser misreads;
/// - ABORT_ERROR: fuser takes its error for a failure of the session.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(NEEDED);

/// Without these the mirror would do something wrong: umasks and ACLs, suid bits that outlive a write, no
/// directory that could be opened.
const NEEDED: InitFlags = InitFlags::FUSE_POSIX_ACL
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT);

/// Serves the mount behind `device` until it is unmounted, with `threads` event loops that answer requests
/// and one that hands them over when all of these are busy. What comes is counted in `requests`.
///
/// `mounted` is called once, when the kernel and the mirror have agreed on how they talk and before
/// the first request is answered.
///
/// # Errors
/// The kernel lacks what the mirror needs (EPROTONOSUPPORT), no thread can be made, or reading from
/// the device failed for another reason than the end of the mount.
pub fn serve<L: Leg>(
    mirror: Arc<Mirror<L>>,
    device: OwnedFd,
    threads: NonZeroUsize,
    caching: Caching,
    requests: Arc<Requests>,
    mounted: &mut dyn FnMut(),
) -> io::Result<()> {
    let mut config = Config::default();
    config.n_threads = Some(threads.get() + 1);
    // The kernel has already refused whom the mount's options refuse. fuser's own check would also
    // refuse what the kernel asks for in nobody's name.
    config.acl = SessionACL::All;
    let loops = Arc::new(Loops::new(threads.get(), Couriers::start()?));
    let translation = Translation::new(mirror.clone(), loops.clone(), caching, requests);
    let session = Session::from_fd(translation, device, SessionACL::All, config)?;
    let (caches, sender) = Caches::start(session.notifier())?;
    let caches = Arc::new(caches);
    mirror.set_invalidate(caches.clone() as Arc<dyn Invalidate>);
    mounted();
    let ended = session.run();
    // Of a session that broke off; after an unmount the kernel has all its answers.
    loops.wait_for_all();
    caches.end();
    let sender = sender.join().map_err(|_| io::Error::from_raw_os_error(libc::EIO));
    ended.and(sender)
}

/// Agrees with the kernel on how to talk.
pub(super) fn agree(config: &mut KernelConfig, caching: Caching) -> io::Result<()> {
    let offered = config.capabilities();
    let needed = NEEDED | caching.needed();
    if !offered.contains(needed) {
        log::error!(
            "this kernel's FUSE is too old (Linux 5.11 or newer is needed): no {:?}",
            needed - offered
        );
        return Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT));
    }
    if !offered.contains(caching.wanted()) {
        log::warn!(
            "this kernel is too old: {}",
            match caching {
                Caching::Passthrough =>
                    "before Linux 6.9 files are read through the mirror, also with passthrough",
                _ => "before Linux 6.6 no file can be mapped and shared with direct_io",
            }
        );
    }
    // Nothing that is refused here could be wrong: only what is offered is asked for, and both
    // limits lie within fuser's.
    let _ = config.add_capabilities((WANTED | needed | caching.wanted()) & offered);
    let _ = config.set_max_write(MAX_WRITE);
    let _ = config.set_max_background(MAX_BACKGROUND);
    if caching == Caching::Passthrough {
        // The legs lie on filesystems that lie on no others.
        let _ = config.set_max_stack_depth(1);
    }
    Ok(())
}

/// Makes a panic in any thread end the process, after its message.
///
/// For the daemon, once, before it has threads. A thread that is gone would leave a mount that
/// answers some requests and not others, with locks that nobody gives back.
///
/// FAIL-SAFE: dying at any instruction is what the bitmap is for; the next mount resyncs.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
