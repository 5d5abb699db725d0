//! Mount options: one table from which the parser, the help text and the man pages' check come.
//!
//! Both `mirrorfs mount -o` and mount.mirrorfs parse here, so an option means the same to both.
//! Pure: nothing is opened or looked up. Text is bytes throughout, for a path need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::resync::Limits;

/// Smallest and largest chunk a mirror can have, in bytes.
const CHUNK_LIMITS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// The longest time a leg may be waited for.
const LONGEST_LEG_TIMEOUT: Duration = Duration::from_secs(86_400);

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

/// Which part of the man page an option belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// mirrorfs's own.
    Mirror,
    /// FUSE's.
    Fuse,
    /// Of every filesystem.
    Any,
    /// Words of fstab that are meant for mount(8) and the init system: dropped.
    Fstab,
}

/// Whether an option has a value, and what the help calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// None: `ro`.
    None,
    /// Always: `chunk=SIZE`.
    Required(&'static str),
    /// Either: `user`, `user=NAME`.
    Optional(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Set(MountFlags),
    Clear(MountFlags),
    Remount,
    AllowOther,
    DefaultPermissions,
    Chunk,
    Bitmap,
    Log,
    Degraded,
    OnEvent,
    AutoReadd,
    LegTimeout,
    ResyncMin,
    ResyncMax,
    Nothing,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct MountOption {
    /// As it is written; a `*` at the end stands for anything.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
    /// Where it is described.
    pub group: Group,
    /// One sentence.
    pub help: &'static str,
    effect: Effect,
}

const fn row(
    group: Group,
    name: &'static str,
    value: Value,
    effect: Effect,
    help: &'static str,
) -> MountOption {
    MountOption { name, value, group, help, effect }
}

const fn flag(name: &'static str, effect: Effect, help: &'static str) -> MountOption {
    row(Group::Any, name, Value::None, effect, help)
}

const fn fstab(name: &'static str, value: Value, help: &'static str) -> MountOption {
    row(Group::Fstab, name, value, Effect::Nothing, help)
}

/// Every option there is.
pub const TABLE: &[MountOption] = &[
    row(
        Group::Mirror,
        "chunk",
        Value::Required("SIZE"),
        Effect::Chunk,
        "The chunk size the mirror was created with, a power of two from 64K to 1G; another one is refused.",
    ),
    row(
        Group::Mirror,
        "bitmap",
        Value::Required("FILE"),
        Effect::Bitmap,
        "Keep the one copy of the write-intent bitmap in FILE. Needed at each mount of a mirror that keeps it elsewhere; given to one that does not, it moves the bitmap there.",
    ),
    row(
        Group::Mirror,
        "log",
        Value::Required("FILE"),
        Effect::Log,
        "Where a daemon in the background appends its log, instead of handing it to syslog.",
    ),
    row(
        Group::Mirror,
        "degraded",
        Value::Required("yes|no|wait[=TIME]"),
        Effect::Degraded,
        "What to do when only one leg is there: mount with it alone (yes), refuse (no, the default), or wait for the other one first, for 30s, 2m or another TIME (default 30s), and then mount with one alone.",
    ),
    row(
        Group::Mirror,
        "on_event",
        Value::Required("PROGRAM"),
        Effect::OnEvent,
        "Run PROGRAM, an absolute path, for each event, without a shell. Its words: the event's name, the mount point, the leg (A, B or -), and what happened.",
    ),
    row(
        Group::Mirror,
        "auto_readd",
        Value::Required("yes|no"),
        Effect::AutoReadd,
        "Take a leg that failed back as soon as it is there again, as re-add does (yes), or leave that to the user (no, the default). What cannot be taken in at once is tried again after growing pauses.",
    ),
    row(
        Group::Mirror,
        "leg_timeout",
        Value::Required("TIME"),
        Effect::LegTimeout,
        "How long a leg may leave a request unanswered before it is left behind and the other one goes on alone: 10, 2m or another TIME (default 30s), 0 for ever.",
    ),
    row(
        Group::Mirror,
        "resync_min",
        Value::Required("SIZE"),
        Effect::ResyncMin,
        "How many bytes a second of files are resynced at least while the mirror is in use, such as 500K or 8M (the default); 0 waits until nobody uses it.",
    ),
    row(
        Group::Mirror,
        "resync_max",
        Value::Required("SIZE"),
        Effect::ResyncMax,
        "How many bytes a second of files are resynced at most, also when nobody uses the mirror and when resync_min is more; 0 (the default) sets no limit.",
    ),
    row(
        Group::Fuse,
        "allow_other",
        Value::None,
        Effect::AllowOther,
        "Let users other than the mount's owner in. Always on when root mounts.",
    ),
    row(
        Group::Fuse,
        "default_permissions",
        Value::None,
        Effect::DefaultPermissions,
        "Let the kernel check permissions by mode and owner. Always on.",
    ),
    row(
        Group::Fuse,
        "user_id",
        Value::Required("UID"),
        Effect::Nothing,
        "As the kernel shows it: handed back by mount(8) at a remount, and left as it is.",
    ),
    row(Group::Fuse, "group_id", Value::Required("GID"), Effect::Nothing, "The same."),
    flag("ro", Effect::Set(MountFlags::RDONLY), "Mount read-only."),
    flag("rw", Effect::Clear(MountFlags::RDONLY), "Mount read-write (default)."),
    row(
        Group::Any,
        "remount",
        Value::None,
        Effect::Remount,
        "Change ro and those below on a mirror that is mounted. What was mounted ro takes no changes until it is unmounted and mounted anew.",
    ),
    flag(
        "noatime",
        Effect::Set(MountFlags::NOATIME),
        "Accepted: reading a mirror never raises access times.",
    ),
    flag("atime", Effect::Clear(MountFlags::NOATIME), "Undo noatime."),
    flag("relatime", Effect::Set(MountFlags::RELATIME), "Accepted, without effect."),
    flag("norelatime", Effect::Clear(MountFlags::RELATIME), "Undo relatime."),
    flag("strictatime", Effect::Set(MountFlags::STRICTATIME), "Accepted, without effect."),
    flag("nostrictatime", Effect::Clear(MountFlags::STRICTATIME), "Undo strictatime."),
    flag("nodiratime", Effect::Set(MountFlags::NODIRATIME), "Accepted, as noatime."),
    flag("diratime", Effect::Clear(MountFlags::NODIRATIME), "Undo nodiratime."),
    flag("nodev", Effect::Set(MountFlags::NODEV), "Device nodes do not work. Always on for ordinary users."),
    flag("dev", Effect::Clear(MountFlags::NODEV), "Device nodes work (default for root)."),
    flag("nosuid", Effect::Set(MountFlags::NOSUID), "Ignore suid and sgid. Always on for ordinary users."),
    flag("suid", Effect::Clear(MountFlags::NOSUID), "Honour suid and sgid (default for root)."),
    flag("noexec", Effect::Set(MountFlags::NOEXEC), "Programs cannot be run."),
    flag("exec", Effect::Clear(MountFlags::NOEXEC), "Programs can be run (default)."),
    flag("sync", Effect::Set(MountFlags::SYNCHRONOUS), "Every write is synchronous."),
    flag("async", Effect::Clear(MountFlags::SYNCHRONOUS), "Undo sync."),
    flag("dirsync", Effect::Set(MountFlags::DIRSYNC), "Every change of a directory is synchronous."),
    fstab("defaults", Value::None, "The defaults."),
    fstab("auto", Value::None, "Mounted by mount -a."),
    fstab("noauto", Value::None, "Not mounted by mount -a."),
    fstab("user", Value::Optional("NAME"), "An ordinary user may mount it."),
    fstab("nouser", Value::None, "Only root may mount it."),
    fstab("users", Value::None, "Any user may mount and unmount it."),
    fstab("owner", Value::None, "The source's owner may mount it."),
    fstab("group", Value::None, "The source's group may mount it."),
    fstab("nofail", Value::None, "Booting goes on without it."),
    fstab("_netdev", Value::None, "Needs the network."),
    fstab("comment", Value::Required("TEXT"), "A remark."),
    fstab("x-*", Value::Optional("VALUE"), "For other programs, such as x-systemd.automount."),
    fstab("X-*", Value::Optional("VALUE"), "For other programs."),
];

impl MountOptions {
    /// Takes the options in `text`, separated by commas, in their order: the later one wins.
    ///
    /// A value may stand in double quotes, or have a backslash before a comma that belongs to it.
    pub fn apply(&mut self, text: &OsStr, unknown: Unknown) -> Result<()> {
        for word in split(text.as_bytes())? {
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
            Effect::Chunk => self.chunk = Some(chunk_size(value)?),
            Effect::Bitmap => self.bitmap = path(),
            Effect::Log => self.log = path(),
            Effect::Degraded => self.degraded = degraded(value)?,
            Effect::OnEvent => self.on_event = Some(program(value)?),
            Effect::AutoReadd => self.auto_readd = yes_or_no("auto_readd", value)?,
            Effect::LegTimeout => self.leg_timeout = leg_timeout(value)?,
            Effect::ResyncMin => self.resync_limits.min = rate("resync_min", value)?,
            Effect::ResyncMax => self.resync_limits.max = rate("resync_max", value)?,
            Effect::Nothing => {}
        }
        Ok(())
    }

    /// The flags by their names, as fusermount3 wants them.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        names_of(self.flags)
    }
}

/// The names of the options that set these flags.
pub fn names_of(flags: MountFlags) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter_map(move |option| match option.effect {
        Effect::Set(flag) if flags.contains(flag) => Some(option.name),
        _ => None,
    })
}

/// The flags that a mount shows by these names, as in mountinfo. Other names are left out.
pub fn flags_named<'a>(names: impl Iterator<Item = &'a str>) -> MountFlags {
    let mut flags = MountFlags::empty();
    for name in names {
        for option in TABLE.iter().filter(|option| option.name == name) {
            if let Effect::Set(flag) = option.effect {
                flags.insert(flag);
            }
        }
    }
    flags
}

impl MountOption {
    fn is_named(&self, name: &[u8]) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix.as_bytes()),
            None => name == self.name.as_bytes(),
        }
    }

    /// The option with its value, as help and man page show it.
    pub fn synopsis(&self) -> String {
        match self.value {
            Value::None => self.name.to_owned(),
            Value::Required(what) => format!("{}={what}", self.name),
            Value::Optional(what) => format!("{}[={what}]", self.name),
        }
    }
}

/// The options as a list for `--help`.
pub fn help() -> String {
    let mut text = String::from("Mount options (-o), separated by commas:\n");
    for option in TABLE.iter().filter(|option| option.group != Group::Fstab) {
        text.push_str(&format!("  {:<20} {}\n", option.synopsis(), option.help));
    }
    text.push_str("Words of fstab that are meant for mount(8) are accepted and dropped:\n  ");
    let words: Vec<String> =
        TABLE.iter().filter(|option| option.group == Group::Fstab).map(MountOption::synopsis).collect();
    text.push_str(&words.join(", "));
    text
}

/// The words between commas, without the quotes and backslashes that kept commas in them.
fn split(text: &[u8]) -> Result<Vec<Vec<u8>>> {
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

fn degraded(value: &[u8]) -> Result<Degraded> {
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
fn program(value: &[u8]) -> Result<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(value.to_vec()));
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::new(format!("mount option \"on_event={}\" is not an absolute path", path.display()))
        .hint("Give the whole path of one program, without arguments; a script can call others."))
}

fn yes_or_no(name: &str, value: &[u8]) -> Result<bool> {
    match value {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        other => Err(Error::new(format!(
            "mount option \"{name}={}\" is neither yes nor no",
            String::from_utf8_lossy(other)
        ))),
    }
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
fn chunk_size(value: &[u8]) -> Result<u64> {
    let shown = String::from_utf8_lossy(value);
    size(&shown).filter(|bytes| bytes.is_power_of_two() && CHUNK_LIMITS.contains(bytes)).ok_or_else(|| {
        Error::new(format!("mount option \"chunk={shown}\" is not a chunk size"))
            .hint("A chunk is a power of two from 64K to 1G, such as 4M.")
    })
}

/// Not more than a day: who wants that wants 0.
fn leg_timeout(value: &[u8]) -> Result<Duration> {
    let time = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
    let time = time.and_then(duration).filter(|time| *time <= LONGEST_LEG_TIMEOUT);
    time.ok_or_else(|| {
        let shown = String::from_utf8_lossy(value);
        Error::new(format!("mount option \"leg_timeout={shown}\" is not a time of at most a day"))
            .hint("Give a number of seconds, or one with s, m or h, such as 30 or 2m; 0 waits for ever.")
    })
}

/// Bytes a second.
fn rate(name: &str, value: &[u8]) -> Result<u64> {
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
