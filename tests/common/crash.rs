//! A load on a mirror, and a daemon killed in the middle of it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Random, TestMirror, process};

/// A shell script that works in the mount until it fails or is ended.
pub struct Load {
    child: Child,
}

impl Load {
    /// Starts `script` with the mount as its working directory. Its complaints go nowhere: the
    /// filesystem is going to be taken away from under it.
    pub fn start(test: &TestMirror, script: &str) -> Load {
        use std::os::unix::process::CommandExt;
        let child = Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(&test.mnt)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        Load { child }
    }
}

impl Drop for Load {
    /// Ends the script and all it has started: its process group, which is its own.
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Runs `script` in the mount and kills the daemon at a random moment within `span`. After that:
/// the mirror is mounted again over the dead mount, resynced, unmounted, and its legs are equal.
/// It is left mounted again for the next round or for a look at the data.
pub fn crash_under(test: &TestMirror, random: &mut Random, script: &str, span: Duration) {
    let load = Load::start(test, script);
    std::thread::sleep(Duration::from_micros(random.below(span.as_micros() as u64)));
    test.kill();
    drop(load);
    if random.below(2) == 0 {
        crash_the_resync(test, random);
    }
    test.recover_and_compare();
    test.mount();
}

/// A second crash while the first is being cleaned up after.
fn crash_the_resync(test: &TestMirror, random: &mut Random) {
    test.mount();
    let pid = test.pid();
    std::thread::sleep(Duration::from_micros(random.below(30_000)));
    process::kill_hard(pid);
}
