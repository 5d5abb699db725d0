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
    /// The script that becomes the server.
    script: PathBuf,
    /// Where the server writes its process id.
    pid_file: PathBuf,
    options: String,
    client: Option<Child>,
    server: u32,
}

impl Sshfs {
    /// Shows `directory` at `at`, which is made, with more options for sshfs (none is an empty text).
    pub fn start(scratch: &Scratch, directory: &Path, at: &Path, options: &str) -> Sshfs {
        std::fs::create_dir_all(at).expect("a mount point");
        let name = at.file_name().expect("a name").to_string_lossy().into_owned();
        let [pid_file, script] = ["pid", "sh"].map(|ending| scratch.join(format!("{name}.{ending}")));
        // Renamed, so that it is there whole.
        let text = format!(
            "#!/bin/sh\necho $$ > '{0}.new' && mv '{0}.new' '{0}'\nexec {SFTP_SERVER}\n",
            pid_file.display()
        );
        std::fs::write(&script, text).expect("a script");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("its mode");
        let (beneath, at, options) = (directory.to_owned(), at.to_owned(), options.to_owned());
        let mut leg = Sshfs { beneath, at, script, pid_file, options, client: None, server: 0 };
        leg.connect();
        leg
    }

    fn connect(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
        let mut options = format!("allow_other,ssh_command={}", self.script.display());
        if !self.options.is_empty() {
            options = format!("{options},{}", self.options);
        }
        let mut source = std::ffi::OsString::from("nowhere:");
        source.push(&self.beneath);
        let mut command = Command::new("sshfs");
        command.arg(source).arg(&self.at).args(["-f", "-o", &options]);
        let client = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("sshfs");
        let client = self.client.insert(client);
        let (server, at) = (&mut self.server, &self.at);
        wait_for("sshfs to be mounted", || {
            let ended = client.try_wait().expect("our own child");
            assert!(ended.is_none(), "sshfs has ended: {ended:?}");
            if let Ok(pid) = std::fs::read_to_string(&self.pid_file) {
                *server = pid.trim().parse().expect("a process id");
            }
            *server != 0 && is_mounted(at)
        });
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

    /// Server and client are gone, nothing is mounted any more.
    pub fn unplug(&mut self) {
        // The client last: the server's end ends what its users wait for.
        if self.server != 0 {
            process::signal(std::mem::take(&mut self.server), Signal::KILL);
        }
        if let Some(mut client) = self.client.take() {
            let _ = client.kill();
            let _ = client.wait();
        }
        if is_mounted(&self.at) {
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }

    /// Unplugged, and back at the same path with the same contents.
    pub fn replug(&mut self) {
        self.unplug();
        self.connect();
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        self.unplug();
    }
}

fn is_mounted(at: &Path) -> bool {
    mounts::at(at).is_some_and(|mount| mount.fstype == "fuse.sshfs")
}

/// A process's state as /proc shows it.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
