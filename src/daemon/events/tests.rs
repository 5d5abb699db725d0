use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A script that is run for events, and the file it writes to.
struct Script {
    top: tempfile::TempDir,
}

impl Script {
    /// `body` runs in the script's directory.
    fn new(body: &str) -> Script {
        let script = Script { top: tempfile::tempdir().unwrap() };
        let text = format!("#!/bin/sh\ncd \"${{0%/*}}\"\n{body}\n");
        std::fs::write(script.path("run"), text).unwrap();
        std::fs::set_permissions(script.path("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    fn events(&self, queue: usize, limit: Duration) -> Events {
        Events::limited(Some(self.path("run")), "/mnt/a b".into(), queue, limit)
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn event(name: Name, leg: Option<LegId>, detail: &str) -> Event {
    Event { name, leg, detail: detail.to_owned() }
}

fn exists(path: &Path) -> bool {
    path.exists()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_program_gets_four_words_as_they_are_one_event_after_another() {
    let script = Script::new("printf '%s|' \"$#\" \"$@\" >>out; echo >>out");
    let events = script.events(QUEUE, PATIENCE);
    events.tell(event(Name::Fail, Some(LegId::B), "at /srv/b: \"$(touch x)\"; `y` * I/O"));
    events.tell(event(Name::DegradedArray, None, ""));
    for name in [Name::Rebuild20, Name::Rebuild40, Name::Rebuild60] {
        events.tell(event(name, Some(LegId::A), "d"));
    }
    assert!(events.flush(PATIENCE));
    let expected = "4|Fail|/mnt/a b|B|at /srv/b: \"$(touch x)\"; `y` * I/O|\n\
                    4|DegradedArray|/mnt/a b|-||\n\
                    4|Rebuild20|/mnt/a b|A|d|\n4|Rebuild40|/mnt/a b|A|d|\n4|Rebuild60|/mnt/a b|A|d|\n";
    assert_eq!(script.said(), expected);
    assert!(!exists(&script.path("x")), "no shell has read it");
}

#[test]
fn the_program_starts_with_nothing_of_the_daemons() {
    let script = Script::new(
        "links=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo \"$links\" >>out
         umask >>out
         env | grep -v -e ^PWD= -e ^_= -e ^OLDPWD= -e ^SHLVL= >>out
         ls -l /proc/$$/fd >descriptors",
    );
    let _of_the_daemon = std::fs::File::create(script.path("leg's lock")).unwrap();
    // As the daemon's threads, from whom hardening has taken the umask away.
    creds::own_umask(Mode::empty()).unwrap();
    let events = script.events(QUEUE, PATIENCE);
    events.tell(event(Name::Fail, None, ""));
    assert!(events.flush(PATIENCE));
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(script.said(), format!("/dev/null\n/dev/null\n/dev/null\n0022\n{path}\n"));
    let descriptors = std::fs::read_to_string(script.path("descriptors")).unwrap();
    assert!(descriptors.contains(" 0 -> ") && !descriptors.contains("lock"), "{descriptors}");
}

#[test]
fn a_protected_daemon_starts_programs_that_are_not() {
    /// PF_MEMALLOC_NOIO, by which the kernel knows an IO_FLUSHER.
    const FLUSHER: u64 = 0x80000;
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let flusher = rustix::process::configure_io_flusher_behavior(true);
    if flusher.is_err() || std::fs::write("/proc/self/oom_score_adj", "-1000").is_err() {
        eprintln!("SKIPPED: this test needs CAP_SYS_RESOURCE");
        return;
    }
    // The sleep stands for the time that any program takes to start.
    let script =
        Script::new("sleep 0.2; cut -d' ' -f9 /proc/self/stat >out; cat /proc/self/oom_score_adj >>out");
    let events = script.events(QUEUE, PATIENCE);
    events.tell(event(Name::Fail, None, ""));
    let ended = events.flush(PATIENCE);
    std::fs::write("/proc/self/oom_score_adj", own).unwrap();
    assert!(ended);
    let said = script.said();
    let (flags, adj) = said.split_once('\n').unwrap();
    assert_eq!((flags.parse::<u64>().unwrap() & FLUSHER, adj), (0, "0\n"));
    let of_this_thread = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let flags = of_this_thread.rsplit_once(") ").unwrap().1.split(' ').nth(6).unwrap();
    assert_eq!(flags.parse::<u64>().unwrap() & FLUSHER, FLUSHER, "the kernel's flags are read rightly");
}

#[test]
fn telling_does_not_wait_and_what_is_too_much_is_dropped_and_counted() {
    let script = Script::new("echo \"$1\" >>out; while [ ! -e go ]; do sleep 0.01; done");
    let events = script.events(2, PATIENCE);
    events.tell(event(Name::Fail, None, ""));
    until("the first one runs", || script.said() == "Fail\n");
    for name in [Name::DegradedArray, Name::RebuildStarted, Name::ReadOnly, Name::SplitBrain] {
        events.tell(event(name, None, ""));
    }
    assert_eq!(events.dropped(), 2);
    assert!(!events.flush(Duration::ZERO), "three are left");
    std::fs::write(script.path("go"), "").unwrap();
    assert!(events.flush(PATIENCE));
    assert_eq!(script.said(), "Fail\nDegradedArray\nRebuildStarted\n");
}

#[test]
fn a_program_that_does_not_end_is_killed_with_what_it_started() {
    let script = Script::new("[ \"$1\" = Fail ] && { sleep 600 & echo $! >child; wait; }; echo \"$1\" >>out");
    let events = script.events(QUEUE, Duration::from_millis(500));
    events.tell(event(Name::Fail, None, ""));
    events.tell(event(Name::SpareActive, None, ""));
    assert!(events.flush(PATIENCE));
    assert_eq!(script.said(), "SpareActive\n");
    let child = std::fs::read_to_string(script.path("child")).unwrap();
    let state = format!("/proc/{}/stat", child.trim());
    until("the child's end", || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z ")));
}

#[test]
fn nobody_is_left_unwaited_for() {
    let script = Script::new("echo $$ >>out; exit 3");
    let events = script.events(QUEUE, PATIENCE);
    for _ in 0..3 {
        events.tell(event(Name::Fail, None, ""));
    }
    assert!(events.flush(PATIENCE));
    for pid in script.said().lines() {
        assert!(!exists(&PathBuf::from(format!("/proc/{pid}"))), "{pid}");
    }
}

#[test]
fn a_program_that_went_away_costs_nothing_but_a_line() {
    let script = Script::new("");
    std::fs::remove_file(script.path("run")).unwrap();
    let events = script.events(QUEUE, PATIENCE);
    events.tell(event(Name::Fail, None, ""));
    assert!(events.flush(PATIENCE));
}

#[test]
fn the_log_line_names_leg_mirror_reason_and_what_to_type() {
    for (event, line) in [
        (
            event(Name::Fail, Some(LegId::B), "at /srv/b: Input/output error"),
            "Fail: leg B of /mnt/a b: at /srv/b: Input/output error. See to its disk, then type: mirrorfs re-add '/mnt/a b' B",
        ),
        (
            event(Name::DegradedArray, None, "leg A is missing"),
            "DegradedArray: /mnt/a b: leg A is missing. \"mirrorfs status '/mnt/a b'\" says what to do.",
        ),
        (event(Name::Rebuild40, Some(LegId::A), "x\ny"), "Rebuild40: leg A of /mnt/a b: x?y"),
    ] {
        assert_eq!(event.line(OsStr::new("/mnt/a b")), line);
    }
}

#[test]
fn tests_can_see_what_is_told() {
    let (events, told) = Events::kept();
    events.tell(event(Name::ReadOnly, None, "x"));
    assert_eq!(told.try_recv(), Ok(event(Name::ReadOnly, None, "x")));
    Events::none().tell(event(Name::ReadOnly, None, "x"));
}
