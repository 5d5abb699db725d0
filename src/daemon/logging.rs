//! Where log records go: to stderr in the foreground; in the background to the file named with
//! `-o log=FILE`, else to syslog. Until a daemon in the background has told its parent that it is
//! ready, its warnings also reach the terminal. `RUST_LOG` chooses what is logged (default: info).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, Log, Metadata, Record};

use crate::error::{Error, Result};

const SYSLOG: &str = "/dev/log";
/// Facility "daemon" of RFC 3164, shifted to its place.
const FACILITY: u8 = 3 << 3;

/// Who reads the log.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// The person at the terminal.
    Foreground,
    /// Whoever looks later.
    Background(Option<&'a Path>),
}

struct Logger {
    terminal: env_logger::Logger,
    kept: Option<Kept>,
    background: bool,
}

enum Kept {
    File(env_logger::Logger),
    Syslog(UnixDatagram),
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// Set when stderr is nobody's any more.
static DETACHED: AtomicBool = AtomicBool::new(false);

/// Starts logging. A second call changes nothing.
pub fn start(destination: Destination<'_>) -> Result<()> {
    let kept = match destination {
        Destination::Foreground => None,
        Destination::Background(Some(path)) => Some(Kept::File(to_file(path)?)),
        Destination::Background(None) => syslog().map(Kept::Syslog),
    };
    let background = matches!(destination, Destination::Background(_));
    let logger = LOGGER.get_or_init(|| Logger { terminal: builder().build(), kept, background });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(logger.terminal.filter());
    }
    Ok(())
}

/// From now on nothing goes to stderr, which is about to be closed.
pub fn leave_terminal() {
    DETACHED.store(true, Ordering::Relaxed);
}

fn builder() -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Info).filter_module("fuser", log::LevelFilter::Warn);
    builder.parse_default_env();
    builder
}

fn to_file(path: &Path) -> Result<env_logger::Logger> {
    let file: File =
        OpenOptions::new().append(true).create(true).open(path).map_err(|cause| {
            Error::new(format!("cannot open the log file {}", path.display())).because(cause)
        })?;
    Ok(builder().target(env_logger::Target::Pipe(Box::new(file))).build())
}

fn syslog() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(SYSLOG).ok()?;
    // A log that does not keep up must not hold up the mirror.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.terminal.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.terminal.matches(record) {
            return;
        }
        if !self.background {
            self.terminal.log(record);
        } else if record.level() <= Level::Warn && !DETACHED.load(Ordering::Relaxed) {
            // Nobody is left to tell when stderr cannot be written.
            let _ = writeln!(std::io::stderr(), "mirrorfs: {}", record.args());
        }
        match &self.kept {
            Some(Kept::File(file)) => file.log(record),
            Some(Kept::Syslog(socket)) => {
                let _ =
                    socket.send(syslog_line(record.level(), std::process::id(), record.args()).as_bytes());
            }
            None => {}
        }
    }

    fn flush(&self) {}
}

/// A datagram of RFC 3164, without the time, which whoever receives it knows as well.
fn syslog_line(level: Level, pid: u32, message: &std::fmt::Arguments<'_>) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{}>mirrorfs[{pid}]: {message}", FACILITY | severity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syslog_lines_carry_facility_and_severity() {
        assert_eq!(syslog_line(Level::Error, 7, &format_args!("x {}", 1)), "<27>mirrorfs[7]: x 1");
        assert_eq!(syslog_line(Level::Info, 7, &format_args!("x")), "<30>mirrorfs[7]: x");
    }
}
