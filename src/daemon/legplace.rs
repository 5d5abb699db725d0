//! Where a leg is, as a mount is told: at a path, or nowhere for now.
//!
//! On the command line and in `A:B` the word `missing` stands for a leg that is not there; a directory
//! really called so is written `./missing`. Pure.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// The word for a leg that is not there.
const MISSING: &str = "missing";

/// Where one leg is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegPlace {
    /// In this directory, or so it is said.
    At(PathBuf),
    /// The mount is to go on without it.
    Missing,
}

impl LegPlace {
    /// Its directory.
    pub fn path(&self) -> Option<&Path> {
        match self {
            LegPlace::At(path) => Some(path),
            LegPlace::Missing => None,
        }
    }

    /// As it is written: what [`From`] takes apart into the same place.
    pub fn word(&self) -> OsString {
        match self {
            LegPlace::At(path) if path.as_os_str() == MISSING => Path::new(".").join(path).into_os_string(),
            LegPlace::At(path) => path.clone().into_os_string(),
            LegPlace::Missing => MISSING.into(),
        }
    }
}

impl From<OsString> for LegPlace {
    fn from(word: OsString) -> LegPlace {
        if word == OsStr::new(MISSING) { LegPlace::Missing } else { LegPlace::At(word.into()) }
    }
}

impl From<PathBuf> for LegPlace {
    fn from(path: PathBuf) -> LegPlace {
        LegPlace::At(path)
    }
}

impl fmt::Display for LegPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.word().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_alone_means_missing() {
        assert_eq!(LegPlace::from(OsString::from("missing")), LegPlace::Missing);
        for word in ["./missing", "/missing", "missing/", "Missing", ""] {
            let place = LegPlace::from(OsString::from(word));
            assert_eq!(place.path(), Some(Path::new(word)), "{word}");
            assert_eq!(place.word(), word);
        }
    }

    #[test]
    fn a_directory_called_missing_is_not_taken_for_a_missing_leg() {
        let place = LegPlace::At(PathBuf::from("missing"));
        assert_eq!(place.to_string(), "./missing");
        assert!(LegPlace::from(place.word()).path().is_some());
    }
}
