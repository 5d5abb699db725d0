//! The smallest [`Service`]: a mount that is always empty, for the tests of everything around the
//! mirror (mounting, unmounting, waiting, signals, status) and as a model of what a service is.
//!
//! Called like `mirrorfs`, or with `helper` as the first word like mount.mirrorfs. Leg A's file
//! `owner` is its lock and holds its process number; `clean` is made there when it ends cleanly.
//! `fail` faults a leg, `re-add` writes the path it got to A's file `asked` and has the leg recovering
//! while A has a file `copying` (each status then makes `seen`); `replace` is unknown. `LINGER_MS` makes the clean end take that long, and tells an event when it comes.

#[path = "../mount-helper/arguments.rs"]
mod arguments;
#[path = "../mount-helper/helper.rs"]
mod helper;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, ReplyDirectory, Request,
    Session, SessionACL,
};
use mirrorfs::daemon::events::{Event, Events, Name};
use mirrorfs::daemon::request;
use mirrorfs::daemon::status::{Leg, LegState, State, Status};
use mirrorfs::daemon::{LegPlace, MountRequest, Service, StartError};
use mirrorfs::error::Error;
use mirrorfs::legs::LegId;
use rustix::fs::FlockOperation;
use serde_json::Value;

struct Empty {
    directory: PathBuf,
    legs: Mutex<Vec<Leg>>,
    events: Events,
    _lock: File,
}

fn start(request: &MountRequest, events: &Events) -> Result<Arc<dyn Service>, StartError> {
    let directory = request.legs[LegId::A].path().map(std::path::Path::to_owned);
    let directory = directory.ok_or_else(|| Error::new("leg A is needed here"))?;
    let failed = |cause| Error::new(format!("cannot open leg A at {}", directory.display())).because(cause);
    let path = directory.join("owner");
    let mut lock =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        lock.read_to_string(&mut holder).map_err(failed)?;
        let error = Error::new(format!("leg A at {} is in use by process {holder}", directory.display()));
        return Err(StartError::Held { holder: holder.parse().ok(), error });
    }
    let write = |lock: &mut File| {
        lock.set_len(0)?;
        lock.rewind()?;
        write!(lock, "{}", std::process::id())
    };
    write(&mut lock).map_err(failed)?;
    let leg = |(id, place): (LegId, &LegPlace)| Leg {
        id: id.to_string(),
        path: place.to_string(),
        state: LegState::InSync,
        ..Leg::default()
    };
    Ok(Arc::new(Empty {
        legs: Mutex::new(request.legs.iter().map(leg).collect()),
        directory,
        events: events.clone(),
        _lock: lock,
    }))
}

impl Empty {
    fn set(&self, state: LegState, request: &request::Request) -> mirrorfs::error::Result<Value> {
        let leg = request.leg()?;
        if let Some(path) = request.path()? {
            let asked = self.directory.join("asked");
            std::fs::write(&asked, path.as_os_str().as_bytes())
                .map_err(|cause| Error::new(format!("cannot write {}", asked.display())).because(cause))?;
        }
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)[leg as usize].state = state;
        Ok(Value::Null)
    }
}

impl Service for Empty {
    fn serve(&self, device: OwnedFd, mounted: &mut dyn FnMut()) -> io::Result<()> {
        let mut config = Config::default();
        config.n_threads = Some(2);
        let session = Session::from_fd(Root, device, SessionACL::All, config)?;
        mounted();
        session.run()
    }

    fn status(&self) -> Status {
        let mut legs = self.legs.lock().unwrap_or_else(PoisonError::into_inner);
        let copying = self.directory.join("copying").exists();
        if copying {
            // A test waits for this; whether it could be written, the test sees.
            let _ = std::fs::write(self.directory.join("seen"), "");
        }
        for leg in legs.iter_mut().filter(|leg| leg.state == LegState::Recovering && !copying) {
            leg.state = LegState::InSync;
        }
        let equal = legs.iter().all(|leg| leg.state == LegState::InSync);
        let state = if equal { State::Clean } else { State::Degraded };
        Status { state, legs: legs.clone(), ..Status::default() }
    }

    fn command(&self, verb: &str, request: &request::Request) -> Option<mirrorfs::error::Result<Value>> {
        let state = match verb {
            "fail" => LegState::Faulted,
            "re-add" => LegState::Recovering,
            _ => return None,
        };
        Some(self.set(state, request))
    }

    fn shut_down(&self) -> mirrorfs::error::Result<()> {
        let linger = std::env::var("LINGER_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(linger));
        let detail = "the end".to_owned();
        self.events.tell(Event { name: Name::RebuildFinished, leg: Some(LegId::B), detail });
        let clean = self.directory.join("clean");
        std::fs::write(&clean, "")
            .map_err(|cause| Error::new(format!("cannot write {}", clean.display())).because(cause))
    }
}

struct Root;

impl Filesystem for Root {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        };
        reply.attr(&Duration::from_secs(1), &attr);
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &std::ffi::OsStr, reply: fuser::ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectory) {
        reply.ok();
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let program = words.next();
    if words.next_if(|word| word == "helper").is_some() {
        helper::main(words.collect(), start)
    } else {
        mirrorfs::cli::main(program.into_iter().chain(words), start)
    }
}
