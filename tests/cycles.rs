//! Whole cycles of a leg that is taken out, comes back or is replaced, under work that never stops: git, sqlite and tar
//! at once, and a daemon killed with SIGKILL at a random moment of each phase, half of the time once more soon after the
//! next mount. Until then no program sees an error; after each cycle all that was acknowledged is there, and the legs are
//! equal.
//!
//! Needs root, /dev/fuse, mkfs.ext4, git, sqlite3 and tar.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::compare::assert_same_data;
use common::crash::Load;
use common::mirror::{mirrorfs, said};
use common::process::{kill_hard, run, shell};
use common::{Filesystem, Random, Scratch, TestMirror, can_mount, has_program, tree, wait_for};

const LEGS: [&str; 2] = ["A", "B"];

/// What is going on when the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A leg is away.
    Degraded,
    /// It is back, and gets what it has missed.
    Recovery,
    /// It has got all that.
    Recovered,
    /// A new directory is filled for a leg that is away.
    ReplacingAway,
    /// A new directory is filled for a leg that serves.
    ReplacingServing,
    /// It has become the leg.
    Replaced,
}

/// The phases; those in which a leg is filled also slowly, so that the kill comes in the middle.
const PLAN: [(Phase, bool); 9] = [
    (Phase::Degraded, false),
    (Phase::Recovery, false),
    (Phase::Recovery, true),
    (Phase::Recovered, false),
    (Phase::ReplacingAway, false),
    (Phase::ReplacingAway, true),
    (Phase::ReplacingServing, false),
    (Phase::ReplacingServing, true),
    (Phase::Replaced, false),
];

/// The two databases, by their journal mode.
const DATABASES: [&str; 2] = ["delete", "wal"];

/// A mirror that is not mounted, and what has been acknowledged of the work on it.
struct Cycles {
    test: TestMirror,
    random: Random,
    /// What is no part of the mirror: the tarball and the logs of what was acknowledged.
    outside: Scratch,
    number: usize,
}

impl Cycles {
    fn new() -> Cycles {
        let test = TestMirror::on("cycles", Filesystem::Ext4, "");
        let outside = Scratch::new("cycleslogs");
        tree::source_tree(&outside.join("sources"), 40, 1);
        shell(outside.path(), "tar -cf sources.tar sources; touch delete wal commits trees ended");
        shell(
            &test.mnt,
            "git init -q repo; cd repo; git config user.email tests@example.org; git config user.name Tests
            git config gc.auto 0; git config maintenance.auto false; git commit -q --allow-empty -m first; cd ..
            for db in delete wal; do
                sqlite3 $db \"pragma journal_mode=$db; create table t(n integer primary key, data blob)\"
            done",
        );
        test.umount();
        Cycles { test, random: Random::announced(), outside, number: 0 }
    }

    /// Commits, inserts and unpacks without end. Each writes down what has returned, and that outside. Without --verify
    /// rev-parse would print "HEAD" when it fails.
    fn script(&self) -> String {
        format!(
            "(
                cd repo; rm -f .git/*.lock .git/refs/heads/*.lock; number=0
                while date +%N > file$((number % 40)) && git add -A && git commit -qm $number; do
                    git rev-parse --verify HEAD >> '{0}/commits'; number=$((number + 1))
                done
                echo git >> '{0}/ended'
            ) &
            for db in delete wal; do (
                number=$(sqlite3 $db 'select ifnull(max(n), -1) + 1 from t') || exit
                while sqlite3 $db \"pragma synchronous=full; insert into t values($number, randomblob(9000))\"; do
                    echo $number >> '{0}'/$db; number=$((number + 1))
                done
                echo $db >> '{0}/ended'
            ) & done
            number=0
            while mkdir tree{1}-$number && tar -C tree{1}-$number -xf '{0}/sources.tar'; do
                echo tree{1}-$number >> '{0}/trees'; rm -rf tree{1}-$((number - 2)); number=$((number + 1))
            done
            echo tar >> '{0}/ended'
            wait",
            self.outside.path().display(),
            self.number
        )
    }

    fn acknowledged(&self, of: &str) -> Vec<String> {
        let log = fs::read_to_string(self.outside.join(of)).expect("a log");
        log.lines().map(str::to_owned).collect()
    }

    /// Waits until each program has got something done from now on.
    fn wait_for_work(&self) {
        for of in DATABASES.into_iter().chain(["commits", "trees"]) {
            let before = self.acknowledged(of).len();
            wait_for("work to be done", || self.acknowledged(of).len() > before);
        }
    }

    /// One cycle, at the end of which the mirror is not mounted.
    fn cycle(&mut self, leg: &str, phase: Phase, slowly: bool) {
        self.number += 1;
        let slow = if slowly { "resync_min=1,resync_max=256K" } else { "" };
        slow.clone_into(&mut self.test.mirror_mut().options);
        self.test.mount();
        let pid = self.test.pid();
        let load = Load::start(&self.test, &self.script());
        self.wait_for_work();
        let new = self.reach(leg, phase);
        let moment = self.random.below(if slowly { 600_000 } else { 200_000 });
        std::thread::sleep(Duration::from_micros(moment));
        println!("cycle {}: leg {leg}, {phase:?}, {slow} {moment} us: {}", self.number, self.shown());
        let ended = self.acknowledged("ended");
        assert!(ended.is_empty(), "{ended:?} has seen an error");
        kill_hard(pid);
        drop(load);
        fs::write(self.outside.join("ended"), "").expect("an empty log");

        self.test.mirror_mut().options.clear();
        let mounted = run(&mut self.test.mount_command());
        match new {
            Some(new) if !mounted.status.success() => {
                assert!(said(&mounted).contains("has been replaced"), "{}", said(&mounted));
                println!("{} is leg {leg}", new.display());
                self.moved_on(leg, new);
                self.test.mount();
            }
            _ => assert!(mounted.status.success(), "{}", said(&mounted)),
        }
        if self.random.below(2) == 0 {
            std::thread::sleep(Duration::from_micros(self.random.below(50_000)));
            self.test.kill();
            self.test.mount();
        }
        self.order(&["wait"], None);
        self.check();
        self.test.umount_and_compare();
    }

    /// Brings `leg` there while the load works; returns the directory that may have become the leg.
    fn reach(&mut self, leg: &str, phase: Phase) -> Option<PathBuf> {
        if phase != Phase::ReplacingServing {
            self.order(&["fail", leg], None);
            self.wait_for_work();
        }
        match phase {
            Phase::Degraded => None,
            Phase::Recovery => {
                self.order(&["re-add", leg], None);
                None
            }
            Phase::Recovered => {
                self.order(&["re-add", leg], None);
                self.order(&["wait"], None);
                self.wait_for_work();
                None
            }
            Phase::ReplacingAway | Phase::ReplacingServing => Some(self.replace(leg)),
            Phase::Replaced => {
                let new = self.replace(leg);
                self.order(&["wait"], None);
                self.moved_on(leg, new);
                self.wait_for_work();
                None
            }
        }
    }

    fn replace(&self, leg: &str) -> PathBuf {
        let new = self.test.scratch().join(format!("new{}", self.number));
        Filesystem::Ext4.make(&new, &new.with_extension("img"), 512);
        fs::remove_dir(new.join("lost+found")).expect("a new ext4");
        self.order(&["replace", leg], Some(&new));
        new
    }

    /// From here on `leg` is there.
    fn moved_on(&mut self, leg: &str, new: PathBuf) {
        let mirror = self.test.mirror_mut();
        *if leg == "A" { &mut mirror.a } else { &mut mirror.b } = new;
    }

    fn order(&self, words: &[&str], path: Option<&Path>) {
        let output = run(mirrorfs().arg(words[0]).arg(&self.test.mnt).args(&words[1..]).args(path));
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    }

    fn shown(&self) -> String {
        let status = self.test.status();
        format!("{} {}", status["state"], status["resync"])
    }

    /// All that was acknowledged is there, and whole. Then the trees are taken away.
    fn check(&self) {
        let mnt = &self.test.mnt;
        shell(mnt, "cd repo; git fsck --full --no-dangling");
        let commits = shell(mnt, "cd repo; git rev-list HEAD");
        for commit in self.acknowledged("commits") {
            assert!(commits.contains(&commit), "commit {commit} is lost");
        }
        for db in DATABASES {
            assert_eq!(shell(mnt, &format!("sqlite3 {db} 'pragma integrity_check'")).trim(), "ok");
            let there = shell(mnt, &format!("sqlite3 {db} 'select n from t'"));
            let there: BTreeSet<&str> = there.lines().collect();
            for row in self.acknowledged(db) {
                assert!(there.contains(row.as_str()), "row {row} of {db} is lost");
            }
        }
        let trees = self.acknowledged("trees");
        assert!(!trees.is_empty());
        for tree in trees.iter().rev().take(2) {
            assert_same_data(&self.outside.join("sources"), &mnt.join(tree).join("sources"));
        }
        shell(mnt, "rm -rf tree*");
        fs::write(self.outside.join("trees"), "").expect("an empty log");
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_while_a_leg_goes_comes_or_is_replaced() {
    if !can_mount() || !["git", "sqlite3", "tar"].into_iter().all(has_program) {
        return;
    }
    let mut cycles = Cycles::new();
    for leg in LEGS {
        for (phase, slowly) in PLAN {
            cycles.cycle(leg, phase, slowly);
        }
    }
}
