//! Mount options: what a mount was asked for, and how that is read.
//!
//! Both `mirrorfs mount -o` and mount.mirrorfs parse here, so an option means the same to both.
//! Pure: nothing is opened or looked up. Text is bytes throughout, for a path need not be UTF-8.
//!
//! | file | holds |
//! |---|---|
//! | `table` | every option there is: parser, help text and the man pages' check come from it |
//! | `values` | what stands behind an equals sign |

mod table;
mod values;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::fuse::Caching;
use crate::resync::Limits;
use table::Effect;

pub use table::{Group, MountOption, TABLE, Value, flags_named, help, names_of};
pub use values::{duration, size};

/// What a mount was asked for with `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The flags of mount(2).
    pub flags: MountFlags,
    /// Flags that were asked to be off; matters to a remount only.
    pub cleared: MountFlags,
    /// Change the flags of what is mounted already.
    pub remount: bool,
    /// Let users other than the mount's owner in; always so for root.
    pub allow_other: bool,
    /// Let the kernel check permissions; always so for root.
    pub default_permissions: bool,
    /// The chunk size that the mirror is expected to have, in bytes.
    pub chunk: Option<u64>,
    /// The one copy of the bitmap, when it does not lie on the legs.
    pub bitmap: Option<PathBuf>,
    /// Where a daemon in the background writes its log.
    pub log: Option<PathBuf>,
    /// What to do when only one leg is there.
    pub degraded: Degraded,
    /// Run for each event; an absolute path.
    pub on_event: Option<PathBuf>,
    /// A leg that failed and is there again is taken back without being asked.
    pub auto_readd: bool,
    /// How long a leg may leave a call unanswered; zero for ever.
    pub leg_timeout: Duration,
    /// How fast data is resynced.
    pub resync_limits: Limits,
    /// What the kernel keeps of the data of files.
    pub caching: Caching,
}

/// What a mount does when one leg is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Degraded {
    /// Refuse.
    #[default]
    No,
    /// Go on with the other one.
    Yes,
    /// Wait this long for it, then go on with the other one.
    Wait(Duration),
}

/// As long as SCSI disks and NFS servers are given for one try: a leg that only recovers is not faulted.
const LEG_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            flags: MountFlags::empty(),
            cleared: MountFlags::empty(),
            remount: false,
            allow_other: false,
            default_permissions: false,
            chunk: None,
            bitmap: None,
            log: None,
            degraded: Degraded::No,
            on_event: None,
            auto_readd: false,
            leg_timeout: LEG_TIMEOUT,
            resync_limits: Limits::default(),
            caching: Caching::default(),
        }
    }
}

/// What to do with an option that is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// An error that names it.
    Refuse,
    /// Leave it out, as mount(8) asks for with `-s`.
    Ignore,
}

impl MountOptions {
    /// Takes the options in `text`, separated by commas, in their order: the later one wins.
    ///
    /// A value may stand in double quotes, or have a backslash before a comma that belongs to it.
    pub fn apply(&mut self, text: &OsStr, unknown: Unknown) -> Result<()> {
        for word in values::split(text.as_bytes())? {
            self.apply_one(&word, unknown)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, word: &[u8], unknown: Unknown) -> Result<()> {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        let shown = String::from_utf8_lossy(name);
        let Some(option) = TABLE.iter().find(|option| option.is_named(name)) else {
            return match unknown {
                Unknown::Ignore => Ok(()),
                Unknown::Refuse => Err(Error::new(format!("unknown mount option \"{shown}\""))
                    .hint("\"mirrorfs mount --help\" lists the options; a value with a comma stands in double quotes.")),
            };
        };
        match (option.value, value) {
            (Value::Required(what), None | Some(b"")) => {
                return Err(Error::new(format!("mount option \"{shown}\" needs a value: {shown}={what}")));
            }
            (Value::None, Some(_)) => {
                return Err(Error::new(format!("mount option \"{shown}\" takes no value")));
            }
            _ => {}
        }
        self.take(option.effect, value.unwrap_or_default())
    }

    fn take(&mut self, effect: Effect, value: &[u8]) -> Result<()> {
        let path = || Some(PathBuf::from(OsString::from_vec(value.to_vec())));
        match effect {
            Effect::Set(flag) => {
                self.flags.insert(flag);
                self.cleared.remove(flag);
            }
            Effect::Clear(flag) => {
                self.flags.remove(flag);
                self.cleared.insert(flag);
            }
            Effect::Remount => self.remount = true,
            Effect::AllowOther => self.allow_other = true,
            Effect::DefaultPermissions => self.default_permissions = true,
            Effect::Chunk => self.chunk = Some(values::chunk_size(value)?),
            Effect::Bitmap => self.bitmap = path(),
            Effect::Log => self.log = path(),
            Effect::Degraded => self.degraded = values::degraded(value)?,
            Effect::OnEvent => self.on_event = Some(values::program(value)?),
            Effect::AutoReadd => self.auto_readd = values::yes_or_no("auto_readd", value)?,
            Effect::LegTimeout => self.leg_timeout = values::leg_timeout(value)?,
            Effect::ResyncMin => self.resync_limits.min = values::rate("resync_min", value)?,
            Effect::ResyncMax => self.resync_limits.max = values::rate("resync_max", value)?,
            Effect::Caching(caching) if [Caching::Through, caching].contains(&self.caching) => {
                self.caching = caching;
            }
            Effect::Caching(_) => return Err(values::one_caching_only()),
            Effect::Nothing => {}
        }
        Ok(())
    }

    /// The flags by their names, as fusermount3 wants them.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        names_of(self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        options.apply(OsStr::new(text), Unknown::Refuse).map(|()| options)
    }

    #[test]
    fn flags_follow_the_last_word() {
        let none = MountFlags::empty();
        for (text, flags) in [
            ("", none),
            ("ro", MountFlags::RDONLY),
            ("ro,rw", none),
            ("rw,ro", MountFlags::RDONLY),
            (",,noatime,", MountFlags::NOATIME),
            ("nodev,nosuid,noexec", MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC),
            ("nodev,dev", none),
            ("sync,dirsync", MountFlags::SYNCHRONOUS | MountFlags::DIRSYNC),
        ] {
            assert_eq!(parse(text).unwrap().flags, flags, "{text}");
        }
    }

    #[test]
    fn words_for_mount_are_dropped() {
        let fstab = "defaults,auto,noauto,user,user=ann,users,owner,group,nofail,_netdev,nouser,\
                     x-systemd.automount,x-a=b,comment=hello";
        assert_eq!(parse(fstab).unwrap(), MountOptions::default());
    }

    #[test]
    fn values_keep_their_commas_and_bytes() {
        for (text, path) in [
            (&b"bitmap=/a b"[..], &b"/a b"[..]),
            (b"bitmap=\"/a,b\",ro", b"/a,b"),
            (b"bitmap=/a\\,b", b"/a,b"),
            (b"bitmap=/a=b", b"/a=b"),
            (b"bitmap=/\xff:x", b"/\xff:x"),
            (b"bitmap=/a\\\\b", b"/a\\b"),
            (b"bitmap=/a\\b", b"/a\\b"),
        ] {
            let mut options = MountOptions::default();
            options.apply(OsStr::from_bytes(text), Unknown::Refuse).unwrap();
            assert_eq!(options.bitmap.unwrap().as_os_str().as_bytes(), path);
        }
    }

    #[test]
    fn chunk_sizes_are_powers_of_two_within_limits() {
        for (text, bytes) in
            [("64K", 64 << 10), ("4M", 4 << 20), ("4MiB", 4 << 20), ("1G", 1 << 30), ("65536", 65536)]
        {
            assert_eq!(parse(&format!("chunk={text}")).unwrap().chunk, Some(bytes));
        }
        for text in ["3M", "32K", "2G", "4X", "M", "4iB", "-4M", "99999999999999999999"] {
            let error = parse(&format!("chunk={text}")).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn degraded_says_what_to_do_with_one_leg() {
        let wait = |seconds| Degraded::Wait(Duration::from_secs(seconds));
        for (text, meant) in [
            ("", Degraded::No),
            ("degraded=no", Degraded::No),
            ("degraded=yes", Degraded::Yes),
            ("degraded=yes,degraded=no", Degraded::No),
            ("degraded=wait", wait(30)),
            ("degraded=wait=30s", wait(30)),
            ("degraded=wait=5,ro", wait(5)),
            ("degraded=wait=2m", wait(120)),
            ("degraded=wait=1h", wait(3600)),
        ] {
            assert_eq!(parse(text).unwrap().degraded, meant, "{text}");
        }
        for value in [
            "maybe",
            "YES",
            "wait=",
            "wait=s",
            "wait=-1",
            "wait=3d",
            "wait=1.5s",
            "wait=9999999999",
            "wait30",
        ] {
            let error = parse(&format!("degraded={value}")).unwrap_err().to_string();
            assert!(
                error.contains(&format!("\"degraded={value}\"")) && error.contains("wait=30s"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_program_for_events_is_an_absolute_path() {
        let options = parse("on_event=\"/usr/bin/tell me,all\",auto_readd=yes").unwrap();
        assert_eq!(options.on_event, Some(PathBuf::from("/usr/bin/tell me,all")));
        assert!(options.auto_readd);
        assert!(!parse("auto_readd=yes,auto_readd=no").unwrap().auto_readd);
        for value in ["tell", "./tell", "bin/tell"] {
            let error = parse(&format!("on_event={value}")).unwrap_err().to_string();
            assert!(error.contains(&format!("\"on_event={value}\" is not an absolute path")), "{error}");
        }
    }

    #[test]
    fn a_leg_timeout_is_a_time_of_at_most_a_day() {
        for (text, seconds) in [("0", 0), ("1", 1), ("30s", 30), ("2m", 120), ("24h", 86_400)] {
            let options = parse(&format!("leg_timeout={text}")).unwrap();
            assert_eq!(options.leg_timeout, Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse("").unwrap().leg_timeout, Duration::from_secs(30));
        for text in ["-1", "+1", "1.5", "30d", "86401", "99999999999999999999", "never"] {
            let error = parse(&format!("leg_timeout={text}")).unwrap_err().to_string();
            assert!(error.contains(&format!("\"leg_timeout={text}\"")), "{error}");
        }
    }

    #[test]
    fn limits_of_a_resync_are_sizes() {
        assert_eq!(parse("").unwrap().resync_limits, Limits { min: 8 << 20, max: 0 });
        let options = parse("resync_max=100M,resync_min=500K").unwrap();
        assert_eq!(options.resync_limits, Limits { min: 500 << 10, max: 100 << 20 });
        assert_eq!(parse("resync_min=0").unwrap().resync_limits.min, 0);
        for text in ["resync_min=fast", "resync_max=8MB", "resync_max=-1", "resync_min=1.5M"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
    }

    #[test]
    fn errors_name_the_option() {
        for (text, words) in [
            ("ro,frobnicate=3", "\"frobnicate\""),
            ("chunk", "chunk=SIZE"),
            ("bitmap=", "bitmap=FILE"),
            ("ro=1", "\"ro\" takes no value"),
            ("degraded", "degraded=yes|no|wait[=TIME]"),
            ("on_event=", "on_event=PROGRAM"),
            ("auto_readd=1", "\"auto_readd=1\" is neither yes nor no"),
            ("log=\"/a", "not closed"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_kernel_is_told_one_way_of_caching() {
        assert_eq!(parse("").unwrap().caching, Caching::Through);
        assert_eq!(parse("writeback,ro,writeback").unwrap().caching, Caching::Back);
        assert_eq!(parse("direct_io").unwrap().caching, Caching::Direct);
        assert_eq!(parse("ro,passthrough").unwrap().caching, Caching::Passthrough);
        for text in ["writeback,direct_io", "direct_io,noatime,writeback", "ro,passthrough,direct_io"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("\"writeback\", \"direct_io\" and \"passthrough\""), "{error}");
        }
    }

    #[test]
    fn sloppy_leaves_unknown_options_out() {
        let mut options = MountOptions::default();
        options.apply(OsStr::new("frobnicate=3,ro"), Unknown::Ignore).unwrap();
        assert_eq!(options.flags, MountFlags::RDONLY);
    }

    #[test]
    fn names_and_flags_agree() {
        let flags = parse("ro,nodev,noatime").unwrap().flags;
        let names: Vec<_> = names_of(flags).collect();
        assert_eq!(names, ["ro", "noatime", "nodev"]);
        assert_eq!(flags_named(names.into_iter()), flags);
    }
}
