//! The legs as one word, `A:B`: the first field of an fstab line and the source that mount(8)
//! shows.
//!
//! A colon inside a path is written `\:`, a backslash `\\`; the word `missing` is a leg that is not
//! there. Pure. Invariant: what [`join`] makes, [`split`] takes apart into the same places, whatever
//! bytes they hold.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::LegPlace;
use crate::error::{Error, Result};
use crate::legs::PerLeg;

/// The two legs in `A:B`.
pub fn split(spec: &OsStr) -> Result<PerLeg<LegPlace>> {
    let mut paths = vec![Vec::new()];
    let mut bytes = spec.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let path = paths.last_mut().expect("the list starts with one path and only grows");
        match byte {
            b'\\' if matches!(bytes.peek(), Some(b':' | b'\\')) => path.extend(bytes.next()),
            b':' => paths.push(Vec::new()),
            other => path.push(other),
        }
    }
    match <[Vec<u8>; 2]>::try_from(paths) {
        Ok([a, b]) if !a.is_empty() && !b.is_empty() => {
            Ok(PerLeg::new(a, b).map(|word| LegPlace::from(OsString::from_vec(word))))
        }
        _ => Err(Error::new(format!("\"{}\" does not name two legs", spec.display())).hint(
            "Write A:B, the paths of both legs, or missing for one; a colon inside a path is written \\: and a backslash \\\\.",
        )),
    }
}

/// `A:B` for these places.
pub fn join(legs: &PerLeg<LegPlace>) -> OsString {
    let mut spec = Vec::new();
    for (_, place) in legs.iter() {
        if !spec.is_empty() {
            spec.push(b':');
        }
        for &byte in place.word().as_bytes() {
            if matches!(byte, b':' | b'\\') {
                spec.push(b'\\');
            }
            spec.push(byte);
        }
    }
    OsString::from_vec(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::LegId;

    #[test]
    fn paths_come_back_as_they_were() {
        for (spec, a, b) in [
            (&b"/a:/b"[..], &b"/a"[..], &b"/b"[..]),
            (b"/a b,c:/\xff", b"/a b,c", b"/\xff"),
            (b"/a\\:x:/b\\\\", b"/a:x", b"/b\\"),
        ] {
            let legs = split(OsStr::from_bytes(spec)).unwrap();
            assert_eq!(legs[LegId::A].word().as_bytes(), a);
            assert_eq!(legs[LegId::B].word().as_bytes(), b);
            assert_eq!(join(&legs).as_bytes(), spec);
        }
    }

    #[test]
    fn a_single_backslash_stays() {
        let legs = split(OsStr::new("/a\\x:/b")).unwrap();
        assert_eq!(legs[LegId::A].word(), "/a\\x");
    }

    #[test]
    fn a_missing_leg_is_told_from_a_directory_called_so() {
        let legs = split(OsStr::new("/a:missing")).unwrap();
        assert_eq!((legs[LegId::A].path().is_some(), &legs[LegId::B]), (true, &LegPlace::Missing));
        assert_eq!(join(&legs), "/a:missing");
        let legs = split(OsStr::new("missing:./missing")).unwrap();
        assert_eq!((&legs[LegId::A], legs[LegId::B].path().is_some()), (&LegPlace::Missing, true));
        assert_eq!(join(&legs), "missing:./missing");
    }

    #[test]
    fn what_is_not_two_paths_is_refused() {
        for spec in ["", "/a", "/a:", ":/b", "/a:/b:/c", "/a\\:/b"] {
            assert!(split(OsStr::new(spec)).unwrap_err().to_string().contains("two legs"), "{spec}");
        }
    }
}
