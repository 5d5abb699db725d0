//! What stands behind an equals sign, and the words between commas.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use super::Degraded;
use crate::error::{Error, Result};

/// Smallest and largest chunk a mirror can have, in bytes.
const CHUNK_LIMITS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// The longest time a leg may be waited for.
const LONGEST_LEG_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The words between commas, without the quotes and backslashes that kept commas in them.
pub(super) fn split(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut words = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let word = words.last_mut().expect("the list starts with one word and only grows");
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if matches!(bytes.peek(), Some(b',' | b'"' | b'\\')) => word.extend(bytes.next()),
            b',' if !quoted => words.push(Vec::new()),
            other => word.push(other),
        }
    }
    if quoted {
        return Err(Error::new(format!(
            "mount options \"{}\" have a quote that is not closed",
            String::from_utf8_lossy(text)
        )));
    }
    words.retain(|word| !word.is_empty());
    Ok(words)
}

/// How long `degraded=wait` waits when it does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);

pub(super) fn degraded(value: &[u8]) -> Result<Degraded> {
    let time = |value: &[u8]| std::str::from_utf8(value).ok().and_then(duration);
    let meant = match value {
        b"no" => Some(Degraded::No),
        b"yes" => Some(Degraded::Yes),
        b"wait" => Some(Degraded::Wait(WAIT_DEFAULT)),
        other => other.strip_prefix(b"wait=").and_then(time).map(Degraded::Wait),
    };
    meant.ok_or_else(|| {
        Error::new(format!(
            "mount option \"degraded={}\" is neither yes, no nor wait",
            String::from_utf8_lossy(value)
        ))
        .hint("To wait for a leg, write degraded=wait=30s; a time is a number of seconds, or one with s, m or h.")
    })
}

/// The program to run for events. Not looked for in PATH, and no directory is the current one to a daemon.
pub(super) fn program(value: &[u8]) -> Result<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(value.to_vec()));
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::new(format!("mount option \"on_event={}\" is not an absolute path", path.display()))
        .hint("Give the whole path of one program, without arguments; a script can call others."))
}

pub(super) fn yes_or_no(name: &str, value: &[u8]) -> Result<bool> {
    match value {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        other => Err(Error::new(format!(
            "mount option \"{name}={}\" is neither yes nor no",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// What one asks the kernel to keep, the other one asks it not to.
pub(super) fn one_caching_only() -> Error {
    Error::new("mount options \"writeback\", \"direct_io\" and \"passthrough\" exclude each other").hint(
        "writeback keeps writes in the kernel's memory, direct_io keeps nothing there, passthrough has the kernel read a leg's \
         files itself: leave one of them.",
    )
}

/// The time meant by `30`, `30s`, `2m` or `1h`; `None` when it is not a time or does not fit.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(seconds).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Bytes of a chunk: a number with K, M or G after it, a power of two within the limits.
pub(super) fn chunk_size(value: &[u8]) -> Result<u64> {
    let shown = String::from_utf8_lossy(value);
    size(&shown).filter(|bytes| bytes.is_power_of_two() && CHUNK_LIMITS.contains(bytes)).ok_or_else(|| {
        Error::new(format!("mount option \"chunk={shown}\" is not a chunk size"))
            .hint("A chunk is a power of two from 64K to 1G, such as 4M.")
    })
}

/// Not more than a day: who wants that wants 0.
pub(super) fn leg_timeout(value: &[u8]) -> Result<Duration> {
    let time = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
    let time = time.and_then(duration).filter(|time| *time <= LONGEST_LEG_TIMEOUT);
    time.ok_or_else(|| {
        let shown = String::from_utf8_lossy(value);
        Error::new(format!("mount option \"leg_timeout={shown}\" is not a time of at most a day"))
            .hint("Give a number of seconds, or one with s, m or h, such as 30 or 2m; 0 waits for ever.")
    })
}

/// Bytes a second.
pub(super) fn rate(name: &str, value: &[u8]) -> Result<u64> {
    let shown = String::from_utf8_lossy(value);
    size(&shown).ok_or_else(|| {
        Error::new(format!("mount option \"{name}={shown}\" is not a number of bytes"))
            .hint("Give the bytes a second, such as 500K or 8M; 0 is allowed.")
    })
}

/// Bytes meant by `4M`, `4MiB`, `64k`, `65536`; `None` when it is not a size or does not fit.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let shift = match text[digits..].trim_end_matches("iB") {
        "" if !text.ends_with("iB") => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}
