//! What a mirror says about itself: the answer to `mirrorfs status --json`. Scripts read these
//! keys: they may grow in number, but none changes its meaning without a new [`FORMAT`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fuse::Caching;

/// The version of the JSON report.
pub const FORMAT: u32 = 1;

/// The whole report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub version: u32,
    /// The version of the daemon.
    pub program: String,
    /// Where the mirror is mounted; bytes that are not UTF-8 are replaced.
    pub mountpoint: String,
    /// The daemon's process number.
    pub pid: u32,
    /// The mirror's own part.
    #[serde(flatten)]
    pub mirror: Status,
}

/// What the mirror knows; the daemon adds the rest of the [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// Why the state is not clean, active or resyncing, for people.
    pub reason: Option<String>,
    /// Since when the state holds, in seconds since 1970.
    pub since: Option<i64>,
    /// A, then B.
    pub legs: Vec<Leg>,
    /// What neither leg could do since the mount, if there was anything.
    #[serde(default)]
    pub neither: Option<Neither>,
    /// What the kernel keeps of the data of files.
    #[serde(default)]
    pub caching: Caching,
    /// What may differ between the legs.
    pub dirty: Dirty,
    /// Since the mount.
    pub counters: Counters,
    /// How far the resync has come.
    pub resync: Resync,
}

/// The mirror in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Both legs are there and nothing is dirty.
    Clean,
    /// Both legs are there; something has been written lately.
    #[default]
    Active,
    /// Both legs are there; what a crash left dirty is being made equal.
    Resyncing,
    /// One leg serves.
    Degraded,
    /// Nothing can be changed.
    Readonly,
}

/// A leg in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegState {
    /// Up to date.
    #[default]
    InSync,
    /// Being brought up to date.
    Recovering,
    /// Missed changes while it was away.
    Stale,
    /// Failed while mounted.
    Faulted,
    /// Not there.
    Missing,
}

/// One leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leg {
    /// `A` or `B`.
    pub id: String,
    /// Its directory; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Its state.
    pub state: LegState,
    /// What went wrong, for people.
    pub reason: Option<String>,
    /// Since when it is in that state, in seconds since 1970.
    pub since: Option<i64>,
    /// The system's error that took it out, in words: `Input/output error`.
    pub errno: Option<String>,
    /// How much it misses, at most, in bytes of data; `None` where the bitmap does not tell.
    pub missing_bytes: Option<u64>,
    /// How many objects it misses something of; `None` where whole directories, or everything,
    /// are to be compared.
    pub missing_objects: Option<u64>,
    /// The directory that is to take its place, while it is filled; or was, and could not be.
    pub replacement: Option<Replacement>,
    /// Reads since the mount that this leg could not do, and the other leg answered.
    pub read_errors: u64,
    /// The file of the last one, from the root of the mirror; bytes that are not UTF-8 are replaced.
    pub last_read_error: Option<String>,
}

/// A directory that is to take the place of a leg when it is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Where it is; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why it was broken off; `None` while it is filled.
    pub failed: Option<String>,
}

/// Requests that both legs failed: errors of programs that take no leg out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neither {
    /// How many.
    pub count: u64,
    /// When the last one was, in seconds since 1970.
    pub last: i64,
    /// The last one: its file, as far as that is known, and what each leg answered.
    pub what: String,
}

/// What the bitmap has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Dirty {
    pub slots: u64,
    pub chunks: u64,
}

/// Counted since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Counters {
    pub marks: u64,
    pub flushes: u64,
    pub clears: u64,
    pub resync_bytes_read: u64,
    pub resync_bytes_written: u64,
    /// What the kernel asked the daemon, by kind (`lookup`, `write`): all kinds, those that never came with 0.
    #[serde(default)]
    pub requests: BTreeMap<String, u64>,
}

/// The resync's progress. The totals are of this mount's resync, also when it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Resync {
    pub active: bool,
    pub done_objects: u64,
    pub total_objects: u64,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub rate_bytes_per_s: u64,
    /// Seconds to go, once the rate is known.
    pub eta_s: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_scripts_read_are_there() {
        let report = Report {
            version: FORMAT,
            program: "0.1.0".to_owned(),
            mountpoint: "/mnt/m".to_owned(),
            pid: 7,
            mirror: Status {
                legs: vec![Leg {
                    id: "A".to_owned(),
                    path: "/a".to_owned(),
                    state: LegState::InSync,
                    ..Leg::default()
                }],
                ..Status::default()
            },
        };
        let json = serde_json::to_value(&report).unwrap();
        for pointer in [
            "/version",
            "/mountpoint",
            "/pid",
            "/state",
            "/legs/0/id",
            "/legs/0/path",
            "/legs/0/state",
            "/dirty/slots",
            "/dirty/chunks",
            "/counters/marks",
            "/counters/flushes",
            "/counters/clears",
            "/counters/resync_bytes_read",
            "/counters/resync_bytes_written",
            "/counters/requests",
            "/resync/active",
            "/resync/done_bytes",
            "/resync/total_bytes",
        ] {
            assert!(json.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer} in {json}");
        }
        assert_eq!(json["state"], "active");
        assert_eq!(json["caching"], "through");
        assert_eq!(json["legs"][0]["state"], "in_sync");
        assert_eq!(json["legs"][0]["read_errors"], 0);
        for key in ["since", "errno", "missing_bytes", "missing_objects", "last_read_error", "replacement"] {
            assert!(json["legs"][0].get(key).is_some_and(serde_json::Value::is_null), "{key} in {json}");
        }
    }

    #[test]
    fn the_report_of_a_daemon_that_knows_fewer_keys_is_understood() {
        let leg: Leg =
            serde_json::from_str(r#"{"id":"A","path":"/a","state":"faulted","reason":null}"#).unwrap();
        let expected =
            Leg { id: "A".to_owned(), path: "/a".to_owned(), state: LegState::Faulted, ..Leg::default() };
        assert_eq!(leg, expected);
        let counters = r#"{"marks":1,"flushes":2,"clears":3,"resync_bytes_read":4,"resync_bytes_written":5}"#;
        assert!(serde_json::from_str::<Counters>(counters).unwrap().requests.is_empty());
    }
}
