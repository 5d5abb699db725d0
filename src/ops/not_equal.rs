//! Why a resync did not end with equal legs, in words: which leg gave the error, and for what. Pure.

use std::fmt;
use std::io;

use crate::error::errno;
use crate::legs::LegId;

/// So many files are named.
const NAMED: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) enum NotEqual {
    /// The source cannot read what it holds; all else is equal.
    Unreadable { leg: LegId, count: usize, files: Vec<String> },
    /// The leg that all was copied from does not serve any more.
    SourceLost(LegId),
    /// An error ended it. Which leg gave it, and for what, as far as that could be seen.
    Failed { error: io::Error, leg: Option<LegId>, file: Option<String> },
}

impl NotEqual {
    /// What the leg that is not complete is left behind with.
    pub fn errno(&self) -> i32 {
        match self {
            NotEqual::Unreadable { .. } | NotEqual::SourceLost(_) => libc::EIO,
            NotEqual::Failed { error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl From<io::Error> for NotEqual {
    fn from(error: io::Error) -> Self {
        NotEqual::Failed { error, leg: None, file: None }
    }
}

impl fmt::Display for NotEqual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotEqual::Unreadable { leg, count, files } => {
                let named = files.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
                let more = count.saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let what = if *count == 1 { "file" } else { "files" };
                write!(f, "leg {leg} cannot read {count} {what} ({}): {named}{more}", errno(libc::EIO))?;
                write!(f, "; write anew or remove what it cannot read; all else is equal")
            }
            NotEqual::SourceLost(leg) => write!(f, "leg {leg}, from which all was copied, is out of service"),
            NotEqual::Failed { error, leg, file } => {
                if let Some(leg) = leg {
                    write!(f, "leg {leg}: ")?;
                }
                if let Some(file) = file {
                    write!(f, "{file}: ")?;
                }
                write!(f, "{error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_counted_and_a_few_are_named() {
        let files = |count: usize| {
            let files = (0..count).map(|number| format!("dir/f{number}")).collect();
            NotEqual::Unreadable { leg: LegId::B, count, files }.to_string()
        };
        assert!(files(1).starts_with("leg B cannot read 1 file (Input/output error (os error 5)): dir/f0; "));
        assert!(files(5).contains("5 files") && files(5).contains("dir/f2 and 2 more; "), "{}", files(5));
        assert!(!files(3).contains("more"), "{}", files(3));
    }

    #[test]
    fn an_error_names_what_is_known_of_it() {
        let told = |leg, file: Option<&str>| {
            let error = errno(libc::ENOSPC);
            NotEqual::Failed { error, leg, file: file.map(str::to_owned) }.to_string()
        };
        let why = "No space left on device (os error 28)";
        assert_eq!(told(None, None), why);
        assert_eq!(told(Some(LegId::A), Some("dir")), format!("leg A: dir: {why}"));
        assert_eq!(told(None, Some("dir")), format!("dir: {why}"));
    }
}
