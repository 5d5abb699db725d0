//! Takes back what the kernel has cached.
//!
//! Names and data are taken back by a thread of their own. The kernel waits for a directory's lock
//! or a page's before it answers such a notice, and whoever holds that may be waiting for a reply of
//! ours: sent from within a request, it would never return. A notice on attributes alone waits for
//! nothing and is sent at once, so that it is before the reply that the change belongs to.
//!
//! A notice that fails is logged and forgotten: the kernel then shows something old, the legs are right.

use std::ffi::{OsStr, OsString};
use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{INodeNo, Notifier};

use crate::inode::Ino;
use crate::ops::Invalidate;

enum Notice {
    Entry(Ino, OsString),
    Inode(Ino),
    /// No more will be sent.
    End,
}

/// Sends notices to the kernel.
pub(super) struct Caches {
    notifier: Notifier,
    queue: Sender<Notice>,
}

impl Caches {
    /// Starts the thread that sends; it ends after [`end`](Self::end).
    pub(super) fn start(notifier: Notifier) -> io::Result<(Caches, JoinHandle<()>)> {
        let (queue, notices) = unbounded();
        let of_thread = notifier.clone();
        let thread = std::thread::Builder::new()
            .name("notices".into())
            .spawn(move || send_all(&of_thread, &notices))?;
        Ok((Caches { notifier, queue }, thread))
    }

    /// Lets the thread end when it has sent what is queued.
    pub(super) fn end(&self) {
        self.put(Notice::End);
    }

    fn put(&self, notice: Notice) {
        // The thread is gone only when the mount is: nobody is left to be told.
        let _ = self.queue.send(notice);
    }
}

impl Invalidate for Caches {
    fn entry(&self, parent: Ino, name: &OsStr) {
        self.put(Notice::Entry(parent, name.into()));
    }

    fn inode(&self, ino: Ino) {
        self.put(Notice::Inode(ino));
    }

    fn attributes(&self, ino: Ino) {
        // A negative offset: attributes and ACLs only, no page is waited for.
        log_failure(self.notifier.inval_inode(INodeNo(ino.0), -1, 0));
    }
}

fn send_all(notifier: &Notifier, notices: &Receiver<Notice>) {
    for notice in notices {
        match notice {
            Notice::Entry(parent, name) => log_failure(notifier.inval_entry(INodeNo(parent.0), &name)),
            Notice::Inode(ino) => log_failure(notifier.inval_inode(INodeNo(ino.0), 0, 0)),
            Notice::End => break,
        }
    }
}

fn log_failure(sent: io::Result<()>) {
    if let Err(error) = sent {
        log::debug!("the kernel did not take a notice: {error}");
    }
}
