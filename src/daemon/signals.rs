//! SIGTERM, SIGINT and SIGHUP end the daemon as umount does.
//!
//! The first signal unmounts. While programs use the mount that is refused; then what they wrote
//! through mappings is fetched, the mount is taken out of the tree and the connection cut, as other
//! FUSE programs do: those programs get ENOTCONN, and nothing that was acknowledged is lost. A
//! second signal ends the process at once; that is a crash, and the next mount resyncs.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::attach::Attached;
use crate::cli::exit::Exit;

/// How long the kernel may take to hand over what programs wrote through mappings.
const WRITE_OUT_PATIENCE: Duration = Duration::from_secs(20);

/// From here on the signals no longer kill the process; they wait for [`Caught::watch`].
pub fn catch() -> io::Result<Caught> {
    Ok(Caught(Signals::new([SIGTERM, SIGINT, SIGHUP])?))
}

/// Signals that are caught but not yet acted on.
pub struct Caught(Signals);

impl Caught {
    /// Acts on signals for `attached`, on a thread of its own.
    pub fn watch(mut self, attached: Attached) -> io::Result<()> {
        let watch = move || {
            let mut ending = false;
            for signal in &mut self.0 {
                if ending {
                    log::error!("second signal ({signal}): ending at once; the next mount resyncs");
                    if let Err(error) = attached.detach_lazily() {
                        log::warn!("{error}");
                    }
                    std::process::exit(Exit::Interrupted as i32);
                }
                ending = true;
                log::info!("signal {signal}: unmounting {}", attached.mountpoint().display());
                let attached = attached.clone();
                let started =
                    std::thread::Builder::new().name("unmount".to_owned()).spawn(move || end(&attached));
                if let Err(error) = started {
                    log::error!("cannot start a thread to unmount: {error}");
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(|_| ())
    }
}

fn end(attached: &Attached) {
    let Err(busy) = attached.detach() else { return };
    log::warn!("{busy}; cutting off the programs that use it");
    write_out(attached);
    if let Err(error) = attached.abort() {
        log::warn!("{error}; ending when the last program lets go of the mount");
    }
}

/// Waits for the kernel's pages, but not for ever: a leg may hang.
fn write_out(attached: &Attached) {
    let (done, wait) = mpsc::channel();
    let attached = attached.clone();
    let started = std::thread::Builder::new().name("write-out".to_owned()).spawn(move || {
        // Whoever waited may have given up.
        let _ = done.send(attached.write_out());
    });
    let result = match started {
        Ok(_) => wait.recv_timeout(WRITE_OUT_PATIENCE).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::warn!("what programs wrote through mappings may be lost: {error}"),
        Err(error) => log::warn!("what programs wrote through mappings may be lost: {error}"),
    }
}
