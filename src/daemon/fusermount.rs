//! Mounting and unmounting for ordinary users, by the setuid program fusermount3.
//!
//! It opens /dev/fuse, mounts, and sends the descriptor over the socket whose number stands in
//! `_FUSE_COMMFD`.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::error::{Error, Result};
use crate::options::MountOptions;

const PROGRAM: &str = "fusermount3";

/// Mounts on `mountpoint` and returns the connection to the kernel.
pub fn mount(mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<OwnedFd> {
    let failed = || Error::new(format!("cannot mount on {}", mountpoint.display()));
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed().because(e))?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| failed().because(e.into()))?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(option_list(source, options))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| not_run(failed(), cause))?;
    drop(theirs);
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(|e| failed().because(e))?;
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(refused(failed(), &output)),
        Err(cause) => Err(failed().because(cause)),
    }
}

/// Takes away the mount on top of `mountpoint`; `lazily`: also while it is in use.
pub fn unmount(mountpoint: &Path, lazily: bool) -> Result<()> {
    let failed = || Error::new(format!("cannot unmount {}", mountpoint.display()));
    let output = Command::new(PROGRAM)
        .args(if lazily { &["-u", "-z"][..] } else { &["-u"] })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| not_run(failed(), cause))?;
    if output.status.success() { Ok(()) } else { Err(refused(failed(), &output)) }
}

fn option_list(source: &OsStr, options: &MountOptions) -> OsString {
    let mut list = b"fsname=".to_vec();
    for &byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
    list.extend(b",subtype=mirrorfs,default_permissions");
    if options.allow_other {
        list.extend(b",allow_other");
    }
    for name in options.flag_names() {
        list.push(b',');
        list.extend(name.as_bytes());
    }
    OsString::from_vec(list)
}

/// The descriptor that comes with the first byte; `None` when the socket ends without one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn not_run(error: Error, cause: io::Error) -> Error {
    let missing = cause.kind() == io::ErrorKind::NotFound;
    let error = error.because(cause);
    if missing {
        error.hint(format!(
            "Ordinary users need the program {PROGRAM}: install the package fuse3, or mount as root."
        ))
    } else {
        error
    }
}

fn refused(error: Error, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.trim().rsplit("fusermount3: ").next().unwrap_or_default().trim();
    let cause = if reason.is_empty() { output.status.to_string() } else { reason.to_owned() };
    let error = error.because(io::Error::other(format!("{PROGRAM}: {cause}")));
    if reason.contains("user_allow_other") {
        error.hint("Leave allow_other out, or have root put the line user_allow_other into /etc/fuse.conf.")
    } else if reason.contains("/dev/fuse") {
        error.hint("Ordinary users must be let use the device: as root, \"chmod 666 /dev/fuse\".")
    } else if reason.contains("no write access") || reason.contains("Permission denied") {
        error.hint("An ordinary user can mount only on a directory of their own; root can mount anywhere.")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Unknown;

    #[test]
    fn commas_and_backslashes_of_the_source_are_escaped() {
        let mut options = MountOptions::default();
        options.apply(OsStr::new("ro,nodev,allow_other"), Unknown::Refuse).unwrap();
        assert_eq!(
            option_list(OsStr::new("/a,b:/c\\:d"), &options),
            "fsname=/a\\,b:/c\\\\:d,subtype=mirrorfs,default_permissions,allow_other,ro,nodev"
        );
    }
}
