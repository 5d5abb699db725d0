//! What the leg's filesystem keeps of times and of symlinks: tried out beside the mirror's own files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, OFlags};

use super::{DirectoryLeg, attrs};
use crate::legs::keeps::{Keeps, grain_of};
use crate::legs::{Kind, Timestamp};
use crate::sys;

const PROBE: &str = "probe-times";
const LINK: &str = "probe-link";
/// A time with something in every digit, and an odd second: some filesystems keep even ones.
const SET: Timestamp = Timestamp { secs: 1_000_000_001, nanos: 123_456_789 };

impl DirectoryLeg {
    /// Finds out what is kept, once. Where it cannot be tried out, nothing is taken for lost.
    pub(super) fn measure_it(&self) {
        let measured = self.grain().and_then(|grain| Ok(Keeps { grain, of_symlinks: self.keeps_links()? }));
        for name in [PROBE, LINK] {
            let _ = rustix::fs::unlinkat(self.state_dir(), name, AtFlags::empty());
        }
        match measured {
            Ok(keeps) => {
                if keeps != Keeps::ALL {
                    log::info!(
                        "leg {} at {}: keeps times to {} ns{}",
                        self.id,
                        self.path.display(),
                        keeps.grain,
                        if keeps.of_symlinks { "" } else { ", and no owner and times of symlinks" }
                    );
                }
                let _ = self.keeps.set(keeps);
            }
            Err(error) => log::info!(
                "leg {} at {}: what it keeps of times cannot be tried out ({error})",
                self.id,
                self.path.display()
            ),
        }
    }

    fn grain(&self) -> io::Result<u32> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
        let probe = sys::file::open_beneath(self.state_dir(), OsStr::new(PROBE), flags, 0o600)?;
        drop(probe);
        let time = attrs::timespec(SET);
        sys::file::set_times_of(self.state_dir(), OsStr::new(PROBE), time, time)?;
        let got = attrs::stat(&sys::file::stat(self.state_dir(), OsStr::new(PROBE))?).mtime;
        Ok(grain_of(SET, got))
    }

    /// The probe leads nowhere, so that nothing is reached through it.
    fn keeps_links(&self) -> io::Result<bool> {
        let name = OsStr::new(LINK);
        match sys::file::make_symlink(self.state_dir(), name, OsStr::new("probe-leads-nowhere")) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            made => made?,
        }
        let time = attrs::timespec(SET);
        if sys::file::set_times_of(self.state_dir().as_fd(), name, time, time).is_err() {
            return Ok(false);
        }
        let stat = attrs::stat(&sys::file::stat(self.state_dir(), name)?);
        Ok(stat.kind == Kind::Symlink && stat.mtime.secs.abs_diff(SET.secs) < 2)
    }
}
