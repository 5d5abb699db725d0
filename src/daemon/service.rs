//! What the daemon asks of the mirror it runs, and nothing else: the daemon knows no leg, the
//! mirror no process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::Value;

use super::MountRequest;
use super::events::Events;
use super::request::Request;
use super::status::Status;
use crate::error::Error;

/// A mirror that has been opened and can be mounted.
pub trait Service: Send + Sync {
    /// Answers the kernel's requests on `device` until the mount is gone. Calls `mounted` once,
    /// when the session has been agreed and requests are being answered.
    ///
    /// Returning an error means that the session broke off; the daemon then takes the mount away.
    fn serve(&self, device: OwnedFd, mounted: &mut dyn FnMut()) -> io::Result<()>;

    /// What the mirror knows of itself. Answers also while a leg hangs: no I/O.
    fn status(&self) -> Status;

    /// A request over the control socket that the daemon does not know itself: `None` when the
    /// mirror does not know it either. Takes as long as it takes, on a thread of its own.
    fn command(&self, verb: &str, request: &Request) -> Option<crate::error::Result<Value>> {
        let _ = (verb, request);
        None
    }

    /// Writes everything down and leaves both legs clean. Called once, when nothing is served any
    /// more.
    fn shut_down(&self) -> crate::error::Result<()>;
}

/// Why a mirror could not be opened.
#[derive(Debug)]
pub enum StartError {
    /// Another process owns a leg; worth another try if that one is about to end.
    Held {
        /// Its process number, when known.
        holder: Option<u32>,
        /// The refusal to show when waiting did not help.
        error: Error,
    },
    /// Anything else.
    Failed(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        StartError::Failed(error)
    }
}

/// Opens the mirror that a request names: locks the legs, reads their state, decides, but serves
/// nothing yet. Called in the process that will serve. What happens to the mirror is told to the events,
/// then and later.
pub type Start = fn(&MountRequest, &Events) -> Result<Arc<dyn Service>, StartError>;
