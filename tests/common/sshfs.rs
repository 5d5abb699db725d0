//! A leg on sshfs whose server can be stopped: sshfs as users run it, but for the network. Where it would
//! start ssh it starts a script that becomes the SFTP server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::{Scratch, TestMirror, can_mount, has_program, have, mounts, process, wait_for};

/// Where Debian's openssh-sftp-server has it.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// True where sshfs can be had; says so and is false (or fails, in CI) otherwise.
pub fn can_sshfs() -> bool {
    can_mount() && has_program("sshfs") && have(SFTP_SERVER, Path::new(SFTP_SERVER).exists())
}

/// A directory shown by sshfs. Dropping it ends server and client by their process ids and unmounts.
pub struct Sshfs {
    beneath: PathBuf,
    at: PathBuf,
    client: Child,
    server: u32,
}

impl Sshfs {
    /// Shows `directory` at `at`, which is made, with more options for sshfs (none is an empty text).
    pub fn start(scratch: &Scratch, directory: &Path, at: &Path, options: &str) -> Sshfs {
        std::fs::create_dir_all(at).expect("a mount point");
        let name = at.file_name().expect("a name").to_string_lossy().into_owned();
        let pid_file = scratch.join(format!("{name}.pid"));
        let script = scratch.join(format!("{name}.sh"));
        // Renamed, so that it is there whole.
        let text = format!(
            "#!/bin/sh\necho $$ > '{0}.new' && mv '{0}.new' '{0}'\nexec {SFTP_SERVER}\n",
            pid_file.display()
        );
        std::fs::write(&script, text).expect("a script");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("its mode");
        let _ = std::fs::remove_file(&pid_file);
        let mut all = format!("allow_other,ssh_command={}", script.display());
        if !options.is_empty() {
            all = format!("{all},{options}");
        }
        let mut source = std::ffi::OsString::from("nowhere:");
        source.push(directory);
        let client = Command::new("sshfs")
            .arg(source)
            .arg(at)
            .args(["-f", "-o", &all])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("sshfs");
        // Made first: from here on the client is ended also when waiting for it fails.
        let mut leg = Sshfs { beneath: directory.to_owned(), at: at.to_owned(), client, server: 0 };
        wait_for("sshfs to be mounted", || {
            let ended = leg.client.try_wait().expect("our own child");
            assert!(ended.is_none(), "sshfs has ended: {ended:?}");
            if let Ok(server) = std::fs::read_to_string(&pid_file) {
                leg.server = server.trim().parse().expect("a process id");
            }
            leg.server != 0 && leg.is_mounted()
        });
        leg
    }

    /// Puts sshfs before leg `a` or `b` of a mirror that is not mounted: it has its leg in `sshfs-a` or
    /// `sshfs-b` of its scratch place from now on.
    pub fn before(test: &mut TestMirror, leg: &str, options: &str) -> Sshfs {
        let at = test.scratch().join(format!("sshfs-{leg}"));
        let beneath = if leg == "a" { test.a.clone() } else { test.b.clone() };
        let sshfs = Sshfs::start(test.scratch(), &beneath, &at, options);
        let mirror = test.mirror_mut();
        *if leg == "a" { &mut mirror.a } else { &mut mirror.b } = at;
        sshfs
    }

    /// Where it is mounted: what is given to mirrorfs as a leg.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The directory that it shows, for a look that nothing hinders.
    pub fn beneath(&self) -> &Path {
        &self.beneath
    }

    /// The server's process id.
    pub fn server(&self) -> u32 {
        self.server
    }

    /// The server answers nothing any more, like a network that is gone.
    pub fn stop(&self) {
        process::signal(self.server, Signal::STOP);
        wait_for("the server to be stopped", || state(self.server) == Some('T'));
    }

    /// The server goes on and does what it was asked meanwhile.
    pub fn carry_on(&self) {
        process::signal(self.server, Signal::CONT);
    }

    /// The server is gone. sshfs notices at once, unmounts and ends: what is left is an empty directory.
    /// With the option `reconnect` it starts another server, which this type does not know.
    pub fn kill_server(&self) {
        process::kill_hard(self.server);
    }

    fn is_mounted(&self) -> bool {
        mounts::at(&self.at).is_some_and(|mount| mount.fstype == "fuse.sshfs")
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        // The client last: the server's answers end what its users wait for.
        if self.server != 0 {
            process::signal(self.server, Signal::KILL);
        }
        let _ = self.client.kill();
        let _ = self.client.wait();
        if self.is_mounted() {
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A process's state as /proc shows it.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
