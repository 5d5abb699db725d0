//! What is to go wrong, and what hangs because of it.
//!
//! Invariant: a request is counted as hanging from the moment it is decided that it hangs until it
//! goes on, so that a test that reads the number has a fact.

use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The operations, by the names that rules use.
macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        /// What the kernel asks for. SETATTR is taken apart into what it sets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op { $($variant,)* }
        const OPERATIONS: &[(Op, &str)] = &[$((Op::$variant, $name),)*];
    };
}

operations! {
    Lookup "lookup", Getattr "getattr", Chmod "chmod", Chown "chown", Truncate "truncate", Utimes "utimes",
    Readlink "readlink", Mknod "mknod", Mkdir "mkdir", Unlink "unlink", Rmdir "rmdir", Symlink "symlink",
    Rename "rename", Link "link", Open "open", Create "create", Read "read", Write "write", Flush "flush",
    Fsync "fsync", Opendir "opendir", Readdir "readdir", Fsyncdir "fsyncdir", Statfs "statfs",
    Setxattr "setxattr", Getxattr "getxattr", Listxattr "listxattr", Removexattr "removexattr",
    Fallocate "fallocate", Lseek "lseek", Copy "copy_file_range",
}

/// Names that stand for several operations.
const GROUPS: &[(&str, &[Op])] = &[
    ("setattr", &[Op::Chmod, Op::Chown, Op::Truncate, Op::Utimes]),
    ("sync", &[Op::Fsync, Op::Fsyncdir]),
    (
        "changes",
        &[
            Op::Chmod,
            Op::Chown,
            Op::Truncate,
            Op::Utimes,
            Op::Mknod,
            Op::Mkdir,
            Op::Unlink,
            Op::Rmdir,
            Op::Symlink,
            Op::Rename,
            Op::Link,
            Op::Create,
            Op::Write,
            Op::Setxattr,
            Op::Removexattr,
            Op::Fallocate,
            Op::Copy,
        ],
    ),
];

/// Operations and groups, separated by commas; `all` is every one.
pub fn parse_operations(text: &str) -> Result<Vec<Op>, String> {
    let mut found = Vec::new();
    for word in text.split(',') {
        if word == "all" {
            found.extend(OPERATIONS.iter().map(|(op, _)| *op));
        } else if let Some((op, _)) = OPERATIONS.iter().find(|(_, name)| *name == word) {
            found.push(*op);
        } else if let Some((_, ops)) = GROUPS.iter().find(|(name, _)| *name == word) {
            found.extend(*ops);
        } else {
            return Err(format!("no operation {word:?}"));
        }
    }
    Ok(found)
}

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    Fail(i32),
    Delay(Duration),
    Hang,
}

/// Which requests meet with it.
#[derive(Debug)]
pub struct Rule {
    pub ops: Vec<Op>,
    /// Only where the path below the leg's root holds this.
    pub word: Option<String>,
    /// So many go through before the first that is met.
    pub after: u64,
    /// So many are met, then no more.
    pub times: u64,
    pub effect: Effect,
}

impl FromStr for Rule {
    type Err = String;

    /// `fail OPS ERRNO | delay OPS MS | hang OPS`, then any of `in WORD`, `after N`, `times N`.
    fn from_str(line: &str) -> Result<Rule, String> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or("a word is missing");
        let (verb, ops) = (next()?, parse_operations(next()?)?);
        let effect = match verb {
            "fail" => Effect::Fail(number(next()?)?),
            "delay" => Effect::Delay(Duration::from_millis(number(next()?)?)),
            "hang" => Effect::Hang,
            _ => return Err(format!("no command {verb:?}")),
        };
        let mut rule = Rule { ops, word: None, after: 0, times: u64::MAX, effect };
        while let Some(condition) = words.next() {
            let value = words.next().ok_or("a value is missing")?;
            match condition {
                "in" => rule.word = Some(value.to_owned()),
                "after" => rule.after = number(value)?,
                "times" => rule.times = number(value)?,
                _ => return Err(format!("no condition {condition:?}")),
            }
        }
        Ok(rule)
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("no number: {word:?}"))
}

/// What a request is to do now.
pub enum Verdict {
    Go,
    Fail(i32),
    /// To be handed to [`Faults::wait`], on a thread that may sleep.
    Wait(Wait),
}

/// A request that has to wait.
pub struct Wait {
    /// The count of releases when it came.
    release: u64,
    until: Option<Instant>,
}

/// The rules, and who waits.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    hanging: u64,
    releases: u64,
    counts: [u64; OPERATIONS.len()],
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Lets go what hangs and is delayed; nothing hangs any more. What is to fail goes on failing.
    pub fn release(&self) {
        let mut state = self.state();
        state.rules.retain(|rule| matches!(rule.effect, Effect::Fail(_)));
        state.releases += 1;
        self.released.notify_all();
    }

    /// Forgets all rules and lets go what hangs.
    pub fn heal(&self) {
        self.state().rules.clear();
        self.release();
    }

    /// How many requests hang now.
    pub fn hanging(&self) -> u64 {
        self.state().hanging
    }

    /// How many requests for any of these operations have come.
    pub fn count(&self, ops: &[Op]) -> u64 {
        let state = self.state();
        ops.iter().map(|op| state.counts[*op as usize]).sum()
    }

    /// What the first rule that a request meets says. `is_in` tells whether its path holds a word.
    pub fn decide(&self, op: Op, is_in: impl Fn(&str) -> bool) -> Verdict {
        let mut state = self.state();
        state.counts[op as usize] += 1;
        let release = state.releases;
        let mut effect = None;
        for rule in &mut state.rules {
            let meant = rule.times > 0 && rule.ops.contains(&op) && rule.word.as_deref().is_none_or(&is_in);
            if !meant {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            rule.times -= 1;
            effect = Some(rule.effect);
            break;
        }
        match effect {
            None => Verdict::Go,
            Some(Effect::Fail(errno)) => Verdict::Fail(errno),
            Some(Effect::Delay(time)) => Verdict::Wait(Wait { release, until: Some(Instant::now() + time) }),
            Some(Effect::Hang) => {
                state.hanging += 1;
                Verdict::Wait(Wait { release, until: None })
            }
        }
    }

    /// Returns when the time is over or all is released.
    pub fn wait(&self, wait: Wait) {
        let mut state = self.state();
        while state.releases == wait.release {
            state = match wait.until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.released.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.released.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if wait.until.is_none() {
            state.hanging -= 1;
        }
    }
}
