use super::*;
use crate::daemon::status::{FORMAT, Replacement, Status};

const SINCE: i64 = 1_709_164_800;

fn shown(mirror: Status) -> String {
    let report =
        Report { version: FORMAT, program: String::new(), mountpoint: "/mnt/m".to_owned(), pid: 7, mirror };
    text(&report, SINCE + 300)
}

/// Leg A in sync, and B like this.
fn legs(b: Leg) -> Vec<Leg> {
    let a = Leg { id: "A".to_owned(), path: "/srv/a".to_owned(), ..Leg::default() };
    vec![a, Leg { id: "B".to_owned(), path: "/srv/b".to_owned(), ..b }]
}

#[test]
fn sizes_are_human() {
    for (count, shown) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12_897_485, "12.3 MiB"), (u64::MAX, "16.0 EiB")]
    {
        assert_eq!(bytes(count), shown);
    }
}

#[test]
fn progress_has_rate_and_time_left() {
    let resync = Resync {
        active: true,
        done_objects: 5,
        total_objects: 10,
        done_bytes: 1 << 20,
        total_bytes: 4 << 20,
        rate_bytes_per_s: 1 << 10,
        eta_s: Some(3661),
    };
    assert_eq!(progress(&resync), "5 of 10 objects, 1.0 MiB of 4.0 MiB (25%), 1.0 KiB/s, 1:01:01 left");
    assert_eq!(progress(&Resync::default()), "none needed");
}

#[test]
fn a_degraded_mirror_says_which_leg_since_when_why_how_much_and_what_to_type() {
    let leg = Leg {
        state: LegState::Faulted,
        since: Some(SINCE),
        errno: Some("Input/output error".to_owned()),
        missing_bytes: Some(3 << 29),
        missing_objects: Some(12),
        read_errors: 2,
        last_read_error: Some("dir/file".to_owned()),
        ..Leg::default()
    };
    let status = Status { state: State::Degraded, legs: legs(leg), ..Status::default() };
    let expected = "\
mirror: /mnt/m (process 7)
 state: degraded
status: Leg B is out of service; leg A alone gets the changes, and they are noted for leg B.
 since: 2024-02-29T00:00:00Z (5 min ago)
reason: leg B: Input/output error
missed: 12 objects, at most 1.5 GiB of data to copy to leg B
action: See to its disk, then type: mirrorfs re-add /mnt/m B
resync: none until leg B is back
 dirty: 0 slots, 0 chunks
counts: 0 marks, 0 flushes, 0 clears; resync read 0 B, wrote 0 B

  LEG  STATE       PATH
  A    in sync     /srv/a
  B    faulted     /srv/b  (Input/output error)
       2 read errors, the last of dir/file: answered from the other leg
";
    assert_eq!(shown(status), expected);
}

#[test]
fn each_state_has_its_meaning_and_its_action() {
    use LegState::*;
    for (state, b, lines) in [
        (State::Clean, InSync, &["status: Both legs are equal", "resync: none needed"] as &[&str]),
        (State::Active, InSync, &["status: Both legs get every change; what was written lately"]),
        (State::Resyncing, Recovering, &["status: Both legs get every change; what one of them missed"]),
        (
            State::Degraded,
            Recovering,
            &[
                "status: Leg B is being brought up to date; until that is done leg A alone is read.",
                "action: To wait for the end, type: mirrorfs wait /mnt/m",
            ],
        ),
        (
            State::Degraded,
            Missing,
            &[
                "status: Leg B is not there; leg A alone",
                "action: Once its directory is there, type: mirrorfs re-add /mnt/m B PATH",
                "resync: none until leg B is back",
            ],
        ),
        (
            State::Degraded,
            Stale,
            &[
                "status: Leg B has missed changes;",
                "action: To copy them to it, type: mirrorfs re-add /mnt/m B",
            ],
        ),
        (State::Degraded, InSync, &["status: Only one leg gets the changes."]),
        (
            State::Readonly,
            Faulted,
            &[
                "status: A leg is out of service: files",
                "action: Unmount, see to the disk of leg B, and mount",
            ],
        ),
        (State::Readonly, InSync, &["status: Files can be read, but not changed."]),
        (State::Readonly, Recovering, &["status: Files can be read, but not changed."]),
    ] {
        let status = Status { state, legs: legs(Leg { state: b, ..Leg::default() }), ..Status::default() };
        let shown = shown(status);
        for line in lines {
            assert!(shown.lines().any(|shown| shown.starts_with(line)), "{line} in\n{shown}");
        }
        let actions = lines.iter().any(|line| line.starts_with("action:"));
        assert_eq!(shown.contains("action:"), actions, "{shown}");
    }
}

#[test]
fn the_other_way_round_it_is_leg_b_that_serves() {
    let mut both = legs(Leg::default());
    both[0].state = LegState::Faulted;
    both[0].reason = Some("taken out by hand".to_owned());
    let shown = shown(Status { state: State::Degraded, legs: both, ..Status::default() });
    for words in
        ["Leg A is out of service; leg B alone", "reason: leg A: taken out by hand", "re-add /mnt/m A\n"]
    {
        assert!(shown.contains(words), "{words} in\n{shown}");
    }
}

#[test]
fn a_leg_that_could_not_be_completed_from_the_other_one_is_not_said_to_be_at_fault() {
    let reason =
        "leg A cannot read 1 file (Input/output error): dir/f; write anew or remove what it cannot read";
    let leg = Leg { state: LegState::Faulted, reason: Some(reason.to_owned()), ..Leg::default() };
    let status = Status { state: State::Degraded, legs: legs(leg), ..Status::default() };
    let text = shown(status);
    assert!(text.contains("Leg B is not complete; leg A alone gets the changes"), "{text}");
    assert!(
        text.contains("action: See to what leg A cannot read, then type: mirrorfs re-add /mnt/m B"),
        "{text}"
    );
}

#[test]
fn what_neither_leg_could_do_is_told_though_both_are_in_sync() {
    let what = "dir/f: leg A: Input/output error; leg B: Input/output error".to_owned();
    let neither = Some(crate::daemon::status::Neither { count: 3, last: SINCE, what });
    let text =
        shown(Status { state: State::Active, neither, legs: legs(Leg::default()), ..Status::default() });
    assert!(text.contains("failed: 3 requests on both legs, the last 5 min"), "{text}");
    assert!(text.contains("dir/f: leg A: Input/output error; leg B"), "{text}");
    assert!(text.contains("action: See to both disks"), "{text}");
}

#[test]
fn what_the_kernel_keeps_is_told_where_it_is_not_as_usual() {
    for (caching, told) in [
        (Caching::Through, None),
        (Caching::Back, Some("(writeback)\n")),
        (Caching::Direct, Some("(direct_io)\n")),
        (Caching::Passthrough, Some("(passthrough)\n")),
    ] {
        let out = shown(Status { caching, legs: legs(Leg::default()), ..Status::default() });
        assert_eq!(out.contains(" cache: "), told.is_some(), "{out}");
        assert!(told.is_none_or(|told| out.contains(told)), "{out}");
    }
}

#[test]
fn while_a_new_directory_is_filled_there_is_nothing_to_do_but_wait() {
    let replacement = |failed| Some(Replacement { path: "/srv/c".to_owned(), failed });
    for (failed, told) in [
        (None, "to wait for that, type: mirrorfs wait /mnt/m"),
        (Some("it is full".to_owned()), "type: mirrorfs re-add /mnt/m B"),
    ] {
        let b = Leg { state: LegState::Faulted, replacement: replacement(failed), ..Leg::default() };
        let out = shown(Status { state: State::Degraded, legs: legs(b), ..Status::default() });
        assert!(out.contains(told), "{out}");
    }
}
