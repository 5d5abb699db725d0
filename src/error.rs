//! The error a user can meet: what failed, on which leg, at which path, with the errno as it was
//! captured, and what to do next.
//!
//! Operations on the data path use [`std::io::Result`] with a raw OS error, so that the number the
//! kernel gave is the number the program sees. Never wrap such an error in `io::Error::other`: that
//! loses `raw_os_error()`, and ENOSPC would reach the user as EIO.

use std::fmt;
use std::io;

/// Shorthand for the results of everything that is not on the data path.
pub type Result<T> = std::result::Result<T, Error>;

/// Something that went wrong, told so that a person can act on it.
///
/// Displayed as two lines: what failed and why, then (if known) what to do.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: Option<io::Error>,
    hint: Option<String>,
}

impl Error {
    /// `what` names the operation and the path: "cannot open leg A at /srv/a".
    pub fn new(what: impl Into<String>) -> Self {
        Error { what: what.into(), cause: None, hint: None }
    }

    /// The system's reason, kept with its errno.
    pub fn because(mut self, cause: io::Error) -> Self {
        self.cause = Some(cause);
        self
    }

    /// What the user can do next: a full sentence, if possible with the command to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The errno captured where the system call failed, if there was one.
    pub fn errno(&self) -> Option<i32> {
        self.cause.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

/// An `io::Error` that carries `errno` as the kernel would.
pub fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Whether this answer to a read of data tells that the medium cannot give just that: another leg may, and
/// writing it anew may help. Past the page cache Linux tells a bad sector by other numbers than EIO.
pub fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EREMOTEIO | libc::ENODATA | libc::EILSEQ))
}
