//! The command line with which mount(8) calls a helper. Pure.
//!
//! ```text
//! mount.mirrorfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use mirrorfs::error::{Error, Result};
use mirrorfs::options::{MountOptions, Unknown};

/// How it is called.
pub const USAGE: &str = "Usage: mount.mirrorfs A:B DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]";

/// What it was called with.
#[derive(Debug)]
pub struct Arguments {
    /// `A:B`.
    pub spec: OsString,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// The options together.
    pub options: MountOptions,
    /// `-f`: everything but the mount.
    pub fake: bool,
    /// `-v`: say what is done.
    pub verbose: bool,
}

/// Takes the words after the program's name; flags and paths may come in any order.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments> {
    let mut words = words.into_iter();
    let mut paths = Vec::new();
    let mut texts = Vec::new();
    let (mut fake, mut verbose, mut unknown) = (false, false, Unknown::Refuse);
    while let Some(word) = words.next() {
        let Some(flags) = word.as_bytes().strip_prefix(b"-").filter(|flags| !flags.is_empty()) else {
            paths.push(word);
            continue;
        };
        if flags == b"-" {
            paths.extend(words.by_ref());
            break;
        }
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b's' => unknown = Unknown::Ignore,
                b'f' => fake = true,
                b'v' => verbose = true,
                // There is no mtab to leave alone any more.
                b'n' => {}
                b'o' | b'N' | b't' => {
                    let value = value(&flags[at + 1..], &mut words)
                        .ok_or_else(|| misused(format!("-{} needs a value", char::from(*flag))))?;
                    if *flag == b'o' {
                        texts.push(value);
                    }
                    // mount(8) enters the namespace by itself, and the type can only be ours.
                    break;
                }
                other => return Err(misused(format!("unknown flag -{}", char::from(*other)))),
            }
        }
    }
    let mut options = MountOptions::default();
    for text in texts {
        options.apply(&text, unknown)?;
    }
    match <[OsString; 2]>::try_from(paths) {
        Ok([spec, mountpoint]) => {
            Ok(Arguments { spec, mountpoint: mountpoint.into(), options, fake, verbose })
        }
        Err(paths) => Err(misused(format!("two words are needed, A:B and DIR, not {}", paths.len()))),
    }
}

/// The rest of the word, or the next one.
fn value(rest: &[u8], words: &mut impl Iterator<Item = OsString>) -> Option<OsString> {
    if rest.is_empty() { words.next() } else { Some(OsStr::from_bytes(rest).to_owned()) }
}

fn misused(what: String) -> Error {
    Error::new(what).hint(USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    use rustix::mount::MountFlags;

    fn words(line: &str) -> Result<Arguments> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_and_paths_come_in_any_order() {
        for line in [
            "/a:/b /m -v -o ro,nodev",
            "-v /a:/b -oro -o nodev /m",
            "-nvo ro,nodev -t mirrorfs -N 3 -- /a:/b /m",
        ] {
            let arguments = words(line).unwrap();
            assert_eq!(arguments.spec, "/a:/b", "{line}");
            assert_eq!(arguments.mountpoint, PathBuf::from("/m"), "{line}");
            assert_eq!(arguments.options.flags, MountFlags::RDONLY | MountFlags::NODEV, "{line}");
            assert!(arguments.verbose && !arguments.fake, "{line}");
        }
    }

    #[test]
    fn sloppy_counts_wherever_it_stands() {
        assert!(words("/a:/b /m -o frobnicate -s").is_ok());
        assert!(words("/a:/b /m -o frobnicate").unwrap_err().to_string().contains("frobnicate"));
    }

    #[test]
    fn misuse_is_named() {
        for (line, what) in [
            ("/a:/b", "two words"),
            ("/a:/b /m -o", "-o needs"),
            ("/a:/b /m -q", "-q"),
            ("/a /b /m", "not 3"),
        ] {
            let error = words(line).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("Usage"), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let spec = OsString::from_vec(b"/\xff:/b".to_vec());
        assert_eq!(parse([spec.clone(), "/m".into()]).unwrap().spec, spec);
    }
}
