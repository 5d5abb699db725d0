//! The control socket: one line of JSON asks, one answers.
//!
//! ```text
//! {"command":"status"}\n   ->   {"ok":{...}}\n   or   {"error":"..."}\n
//! ```
//!
//! The socket has an abstract name made of the mount's device number, which mountinfo tells without
//! touching the mount: a mirror that hangs still answers. Abstract names need no directory that
//! every user can write to, leave nothing behind when the daemon is killed, and belong to a network
//! namespace: from another one a mirror cannot be asked. Anyone may take a name, so both sides
//! look at who the other is: only root and the mount's owner may ask or answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::mountinfo::{Device, Mount};
use super::request::Request;
use super::service::Service;
use super::status::{FORMAT, Report};
use crate::error::Error;

/// Longest request or answer, in bytes.
const LINE_MAX: u64 = 16 << 20;
/// How long either side waits for the other when the answer needs no disk.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What came back for a request.
#[derive(Debug)]
pub enum Answer {
    /// The daemon's reply.
    Reply(std::result::Result<Value, String>),
    /// Nobody listens, or whoever does is ending.
    Nobody,
    /// Somebody listens, but says nothing.
    Timeout,
}

/// Answers until it is dropped.
///
/// The kernel gives a device number out again as soon as the mount is gone, while the daemon still
/// has its legs to close: the name must be given back first.
pub struct Listening(Arc<UnixListener>);

impl Drop for Listening {
    fn drop(&mut self) {
        // Wakes the thread that accepts; it lets go of the socket, and so of the name.
        if let Err(error) = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both) {
            log::warn!("control socket: cannot be closed: {error}");
        }
    }
}

/// Answers requests about `service`, mounted on `mountpoint`, on a thread of its own.
pub fn serve(service: Arc<dyn Service>, device: &Device, mountpoint: String) -> io::Result<Listening> {
    let listener = Arc::new(bind(device)?);
    let listening = Listening(listener.clone());
    let accept = move || {
        while let Ok((stream, _)) = listener.accept() {
            let (service, mountpoint) = (service.clone(), mountpoint.clone());
            // One thread a request: the next one need not wait behind one that hangs.
            let answering = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
                if let Err(error) = answer(&stream, &*service, &mountpoint) {
                    log::debug!("control socket: {error}");
                }
            });
            if let Err(error) = answering {
                log::warn!("control socket: cannot start a thread: {error}");
            }
        }
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(accept)?;
    Ok(listening)
}

/// Takes the name; the last mount of this number may be giving it back just now.
fn bind(device: &Device) -> io::Result<UnixListener> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixListener::bind_addr(&address(device)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn answer(stream: &UnixStream, service: &dyn Service, mountpoint: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Read first: closing with the request unread would reset the connection, and lose the answer.
    let line = receive(stream)?;
    let asking = rustix::net::sockopt::socket_peercred(stream)?.uid;
    if !asking.is_root() && asking != rustix::process::geteuid() {
        return send(stream, &json!({ "error": "only root and the mount's owner may ask" }));
    }
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => return send(stream, &json!({ "error": format!("not a request: {error}") })),
    };
    let reply = match request.command() {
        "status" => Ok(json!(report(service, mountpoint))),
        verb => match service.command(verb, &request) {
            Some(result) => result.map_err(|error| error.to_string()),
            None => Err(format!("this daemon does not know the command \"{verb}\"")),
        },
    };
    send(
        stream,
        &match reply {
            Ok(value) => json!({ "ok": value }),
            Err(message) => json!({ "error": message }),
        },
    )
}

fn report(service: &dyn Service, mountpoint: &str) -> Report {
    Report {
        version: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        mountpoint: mountpoint.to_owned(),
        pid: std::process::id(),
        mirror: service.status(),
    }
}

/// Sends `request` to the daemon of `mount`, and waits for the answer, `patience` at most. An error
/// means that the answer does not come from the mount's daemon or is not understood.
pub fn ask(mount: &Mount, request: &Request, patience: Option<Duration>) -> crate::error::Result<Answer> {
    let failed =
        |cause| Error::new(format!("cannot ask the daemon of {}", mount.mountpoint.display())).because(cause);
    let stream = match address(&mount.device).and_then(|address| UnixStream::connect_addr(&address)) {
        Ok(stream) => stream,
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => return Ok(Answer::Nobody),
        Err(cause) => return Err(failed(cause)),
    };
    let daemon = rustix::net::sockopt::socket_peercred(&stream).map_err(|errno| failed(errno.into()))?.uid;
    if !daemon.is_root() && Some(daemon.as_raw()) != mount.owner() {
        return Err(failed(crate::error::errno(libc::EPERM))
            .hint(format!("User {} has taken the name of its control socket.", daemon.as_raw())));
    }
    match exchange(&stream, request, patience) {
        Ok(line) if line.is_empty() => Ok(Answer::Nobody),
        Ok(line) => unwrap(&line).map(Answer::Reply).map_err(failed),
        Err(cause) => match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(Answer::Timeout),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(Answer::Nobody),
            _ => Err(failed(cause)),
        },
    }
}

fn exchange(stream: &UnixStream, request: &Request, patience: Option<Duration>) -> io::Result<String> {
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send(stream, &json!(request))?;
    receive(stream)
}

fn unwrap(line: &str) -> io::Result<std::result::Result<Value, String>> {
    let mut answer: Map<String, Value> = serde_json::from_str(line)?;
    Ok(match answer.remove("ok") {
        Some(value) => Ok(value),
        None => Err(answer.get("error").and_then(Value::as_str).unwrap_or("no reason given").to_owned()),
    })
}

fn address(device: &Device) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("mirrorfs/{device}"))
}

fn send(mut stream: &UnixStream, value: &Value) -> io::Result<()> {
    stream.write_all(format!("{value}\n").as_bytes())
}

fn receive(stream: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    Ok(line)
}
