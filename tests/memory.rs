//! Memory and descriptors: a walk over very many files stays within bounds, and heavy writing in a
//! small memory cgroup neither hangs nor loses.
//!
//! Needs root and /dev/fuse; the second test needs a memory cgroup, of version 1 or 2.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Filesystem, TestMirror, can_mount, mounts, process};

/// A million files when asked for with `MIRRORFS_FILES=1000000`; fewer in the ordinary run.
fn files() -> u64 {
    std::env::var("MIRRORFS_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000)
}

/// What the daemon may take before it has seen a single file, and for each that it is walked over.
const BASE: u64 = 112 << 20;
const PER_FILE: u64 = 320;

#[test]
fn a_walk_of_very_many_files_stays_within_memory_and_descriptors() {
    if !can_mount() {
        return;
    }
    let files = files();
    // ext4 has an inode for every 16 KiB.
    let test = TestMirror::sized("walk", Filesystem::Ext4, "", files / 40 + 1024);
    for dir in 0..files / 1000 {
        let path = test.a.join(format!("dir{dir}"));
        fs::create_dir(&path).expect("mkdir");
        for file in 0..1000 {
            File::create(path.join(format!("file{file}"))).expect("create");
        }
    }
    assert!(test.create(&["--source".as_ref(), "A".as_ref()]).status.success());
    test.mount();
    let pid = test.pid();
    let before = process::peak_memory(pid);
    assert!(before < BASE, "{} MiB without a file", before >> 20);
    let mut seen = 0;
    for dir in fs::read_dir(&test.mnt).expect("list").flatten() {
        for entry in fs::read_dir(dir.path()).expect("list").flatten() {
            // A stat of its own, as find(1) and du(1) do it.
            assert_eq!(fs::symlink_metadata(entry.path()).expect("stat").len(), 0);
            seen += 1;
        }
    }
    assert_eq!(seen, files / 1000 * 1000);
    let memory = process::peak_memory(pid);
    let each = (memory - before) / files;
    println!(
        "{files} files: {} MiB resident at most, {each} bytes a file, {} descriptors",
        memory >> 20,
        process::descriptors(pid)
    );
    assert!(each < PER_FILE, "{each} bytes for each of {files} files");
    let limit = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let limit = limit.lines().find_map(|line| line.strip_prefix("Max open files")).expect("its limit");
    let limit: usize = limit.split_whitespace().next().and_then(|text| text.parse().ok()).expect("a number");
    assert!(
        process::descriptors(pid) < limit * 3 / 4,
        "{} descriptors of {limit}",
        process::descriptors(pid)
    );
    test.umount();
}

/// A memory cgroup of this test's own, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: u64) -> Option<Cgroup> {
        let mounts = mounts::all();
        let of = |kind: &str| {
            mounts
                .iter()
                .filter(|mount| mount.fstype == kind)
                .map(|mount| mount.at.clone())
                .collect::<Vec<_>>()
        };
        let old = of("cgroup").into_iter().find(|path| path.join("memory.limit_in_bytes").exists());
        let (root, file) = match old {
            Some(root) => (root, "memory.limit_in_bytes"),
            None => {
                let holds_memory = |path: &PathBuf| {
                    fs::read_to_string(path.join("cgroup.subtree_control"))
                        .is_ok_and(|text| text.contains("memory"))
                };
                (of("cgroup2").into_iter().find(holds_memory)?, "memory.max")
            }
        };
        let path = root.join(format!("mirrorfs-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Cgroup(path);
        fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }

    /// A shell command line that runs `script` inside.
    fn wrap(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-ec").arg(format!("echo $$ > '{}/cgroup.procs'; {script}", self.0.display()));
        command
    }

    /// How often something in it was killed for lack of memory.
    fn kills(&self) -> u64 {
        let text = ["memory.oom_control", "memory.events"].map(|name| fs::read_to_string(self.0.join(name)));
        let lines = text.iter().flatten().flat_map(|text| text.lines());
        lines
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .filter_map(|text| text.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("left behind: {}", self.0.display());
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[test]
fn heavy_writing_in_a_small_memory_cgroup_neither_hangs_nor_loses() {
    write_heavily("", 160_000_000);
}

#[test]
fn heavy_writing_in_a_small_memory_cgroup_with_writeback_neither_hangs_nor_loses() {
    // The kernel lets it hold little, and so holds up who writes.
    write_heavily("writeback", 60_000_000);
}

fn write_heavily(options: &str, bytes: u64) {
    if !can_mount() {
        return;
    }
    let test = TestMirror::sized("cgroup", Filesystem::Ext4, options, 1024);
    let group = Cgroup::new(160 << 20);
    if !common::have("a memory cgroup", group.is_some()) {
        return;
    }
    let group = group.expect("checked");
    assert!(test.create(&[]).status.success());
    let arguments: Vec<String> =
        test.mount_arguments().iter().map(|argument| format!("'{}'", argument.to_string_lossy())).collect();
    // The daemon stays in the group it was started in.
    process::must(&mut group.wrap(&format!(
        "exec {} {}",
        quoted(common::mirror::program()),
        arguments.join(" ")
    )));
    // More than the group's memory, through the page cache and through memory maps of tar and cp,
    // from several processes that sit in the same group.
    let script = format!(
        "cd {}; for number in 1 2 3; do
            (head -c {bytes} /dev/urandom > file$number; cp file$number copy$number; sha256sum < file$number > sum$number) &
        done; wait; sync
        for number in 1 2 3; do sha256sum < copy$number | cmp - sum$number; done",
        quoted(&test.mnt)
    );
    process::must(&mut group.wrap(&script));
    assert_eq!(group.kills(), 0, "nothing was killed for lack of memory");
    test.umount_and_compare();
}
