//! Every mount option there is. The parser, the help text and the man pages' check come from here.

use rustix::mount::MountFlags;

use crate::fuse::Caching;

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
pub(super) enum Effect {
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
    Caching(Caching),
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
    pub(super) effect: Effect,
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
        Group::Mirror,
        "writeback",
        Value::None,
        Effect::Caching(Caching::Back),
        "Let the kernel keep what is written until the file is synced or closed, or for up to half a minute: small writes are several times faster, and what was neither synced nor closed is lost with a killed daemon, as with a power cut.",
    ),
    row(
        Group::Mirror,
        "direct_io",
        Value::None,
        Effect::Caching(Caching::Direct),
        "Keep nothing of the data of files in the kernel's memory: every read and write goes on to the mirror, with one copy less. For large streams, and for programs with a cache of their own; what is read again is slower.",
    ),
    row(
        Group::Mirror,
        "passthrough",
        Value::None,
        Effect::Caching(Caching::Passthrough),
        "On a mirror that is mounted ro, let the kernel read the files of one leg itself, as fast as without the mirror. What that leg cannot read is an error then, although the other one may have it. For root; that leg's filesystem must be mounted noatime or ro.",
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
    pub(super) fn is_named(&self, name: &[u8]) -> bool {
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
