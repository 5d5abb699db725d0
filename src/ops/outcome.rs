//! What two answers mean: one reply, and a verdict on each leg. Pure.
//!
//! A change is asked of the source first, and of the other leg when the source did it, or failed. So a
//! refusal by the source leaves both legs as they were, and only the other leg's answer can make
//! them differ.
//!
//! | source | other | reply | and then |
//! |---|---|---|---|
//! | done | done, same count | done | |
//! | done | done, fewer bytes | the smaller count | source is brought back to it |
//! | refused | not asked | that errno | nothing: it is an answer |
//! | refused | refused alike | that errno | nothing |
//! | done | failed | done | the other leg is left behind, durably, before the reply (O2) |
//! | failed | done | done | the source is left behind, durably, before the reply |
//! | failed | failed | that errno | nothing: an answer that both give alike |
//! | failed | refused otherwise | the other leg's errno | the source is left behind |
//! | failed | not asked: it is away, or not complete | that errno | nothing: the last leg is never left behind |
//! | done | refused for a limit of its own | that errno | source is brought back |
//! | not asked | refused, while a resync is under way | that errno | the other leg is brought back |
//! | done | sees other names than the source | done | the legs differ: the other leg is brought up |
//!
//! A leg *fails* when its errno tells of the leg and not of the request.

use crate::legs::LegId;

/// What a leg answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It did this many bytes, or all of what has no count (0).
    Done(u64),
    /// It did nothing, and gave this errno.
    Refused(i32),
    /// It was not asked.
    NotAsked,
}

/// What an errno tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The leg is broken or gone.
    Failure,
    /// This leg cannot do what the other perhaps can: it is full, or has a limit.
    Limit,
    /// The names on this leg are not what the request expects.
    Names,
}

/// What `errno` tells about the leg that gave it. An unknown one counts as a limit: the change is
/// taken back, nobody is faulted, and the legs stay alike.
pub fn class(errno: i32) -> Class {
    match errno {
        libc::EIO
        | libc::EROFS
        | libc::ENODEV
        | libc::ENXIO
        | libc::ESTALE
        | libc::ENOTCONN
        | libc::ECONNABORTED
        | libc::ESHUTDOWN
        | libc::EREMOTEIO
        | libc::EUCLEAN
        | libc::ETIMEDOUT
        | libc::ENOMEDIUM => Class::Failure,
        libc::ENOENT | libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR | libc::EISDIR => Class::Names,
        _ => Class::Limit,
    }
}

/// The reply to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done, with this count.
    Done(u64),
    /// This errno.
    Errno(i32),
}

/// What must happen before the reply goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// This leg is recorded as stale on the other one, with the errno it failed with.
    Fault(LegId, i32),
    /// `wrong` is made equal to the other leg in what the request touched.
    Repair {
        /// The leg to change.
        wrong: LegId,
    },
}

/// A reply and what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For the program.
    pub reply: Reply,
    /// For the legs.
    pub then: Then,
}

/// Judges the answers of the `source` and of the other leg.
pub fn judge(source: LegId, of_source: Answer, of_other: Answer) -> Outcome {
    let other = source.other();
    let outcome = |reply, then| Outcome { reply, then };
    match (of_source, of_other) {
        (Answer::Done(ours), Answer::Done(theirs)) if theirs < ours => {
            outcome(Reply::Done(theirs), Then::Repair { wrong: source })
        }
        (Answer::Done(ours), Answer::Done(theirs)) if theirs > ours => {
            outcome(Reply::Done(ours), Then::Repair { wrong: other })
        }
        (Answer::Done(count), Answer::Done(_)) => outcome(Reply::Done(count), Then::Nothing),
        (Answer::Done(count), Answer::Refused(errno)) => match class(errno) {
            Class::Failure => outcome(Reply::Done(count), Then::Fault(other, errno)),
            Class::Limit => outcome(Reply::Errno(errno), Then::Repair { wrong: source }),
            Class::Names => outcome(Reply::Done(count), Then::Repair { wrong: other }),
        },
        // One leg serves alone: its answer is the answer.
        (Answer::Done(count), Answer::NotAsked) => outcome(Reply::Done(count), Then::Nothing),
        (Answer::Refused(errno), of_other) => match (class(errno), of_other) {
            (Class::Failure, Answer::Refused(theirs)) if class(theirs) == Class::Failure => {
                outcome(Reply::Errno(errno), Then::Nothing)
            }
            (Class::Failure, Answer::Done(count)) => outcome(Reply::Done(count), Then::Fault(source, errno)),
            (Class::Failure, Answer::Refused(theirs)) => {
                outcome(Reply::Errno(theirs), Then::Fault(source, errno))
            }
            (Class::Failure, Answer::NotAsked) => outcome(Reply::Errno(errno), Then::Nothing),
            (_, Answer::Done(_)) => outcome(Reply::Errno(errno), Then::Repair { wrong: other }),
            _ => outcome(Reply::Errno(errno), Then::Nothing),
        },
        // While a resync is under way the other leg is asked first, see `change`.
        (Answer::NotAsked, Answer::Refused(errno)) => {
            outcome(Reply::Errno(errno), Then::Repair { wrong: other })
        }
        (Answer::NotAsked, _) => outcome(Reply::Errno(libc::EIO), Then::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Done, NotAsked, Refused};

    /// Every row of the table in the module's documentation, for each leg in the role of the source.
    #[test]
    fn every_pair_of_answers_has_its_reply_and_its_verdict() {
        for source in LegId::ALL {
            let other = source.other();
            let rows = [
                (Done(0), Done(0), Reply::Done(0), Then::Nothing),
                (Done(9), Done(9), Reply::Done(9), Then::Nothing),
                (Done(9), Done(4), Reply::Done(4), Then::Repair { wrong: source }),
                (Done(4), Done(9), Reply::Done(4), Then::Repair { wrong: other }),
                (Done(9), NotAsked, Reply::Done(9), Then::Nothing),
                (Refused(libc::EACCES), NotAsked, Reply::Errno(libc::EACCES), Then::Nothing),
                (Refused(libc::ENOSPC), NotAsked, Reply::Errno(libc::ENOSPC), Then::Nothing),
                (Refused(libc::ENOENT), Refused(libc::ENOENT), Reply::Errno(libc::ENOENT), Then::Nothing),
                (Refused(libc::EIO), NotAsked, Reply::Errno(libc::EIO), Then::Nothing),
                (Refused(libc::EIO), Done(9), Reply::Done(9), Then::Fault(source, libc::EIO)),
                (
                    Refused(libc::EIO),
                    Refused(libc::ENOSPC),
                    Reply::Errno(libc::ENOSPC),
                    Then::Fault(source, libc::EIO),
                ),
                (Refused(libc::EIO), Refused(libc::EIO), Reply::Errno(libc::EIO), Then::Nothing),
                (NotAsked, Refused(libc::ENOSPC), Reply::Errno(libc::ENOSPC), Then::Repair { wrong: other }),
                (Refused(libc::EEXIST), Done(0), Reply::Errno(libc::EEXIST), Then::Repair { wrong: other }),
            ];
            for (of_source, of_other, reply, then) in rows {
                let wanted = Outcome { reply, then };
                assert_eq!(judge(source, of_source, of_other), wanted, "{of_source:?}, {of_other:?}");
            }
        }
    }

    #[test]
    fn a_leg_that_fails_is_faulted_and_the_program_does_not_notice() {
        for source in LegId::ALL {
            for errno in [libc::EIO, libc::EROFS, libc::ENODEV, libc::ESTALE, libc::ENOTCONN, libc::EUCLEAN] {
                let outcome = judge(source, Done(3), Refused(errno));
                assert_eq!(outcome.reply, Reply::Done(3));
                assert_eq!(outcome.then, Then::Fault(source.other(), errno));
            }
        }
    }

    #[test]
    fn a_limit_of_one_leg_is_the_limit_of_the_mirror() {
        let limits = [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EFBIG,
            libc::ENAMETOOLONG,
            libc::EMLINK,
            libc::ENOTSUP,
            libc::EPERM,
            libc::E2BIG,
        ];
        for source in LegId::ALL {
            for errno in limits {
                let outcome = judge(source, Done(3), Refused(errno));
                assert_eq!(outcome.reply, Reply::Errno(errno));
                assert_eq!(outcome.then, Then::Repair { wrong: source });
            }
        }
    }

    #[test]
    fn names_that_differ_are_settled_by_the_source() {
        for source in LegId::ALL {
            for errno in [libc::ENOENT, libc::EEXIST, libc::ENOTEMPTY, libc::ENOTDIR, libc::EISDIR] {
                let outcome = judge(source, Done(0), Refused(errno));
                assert_eq!(outcome.reply, Reply::Done(0));
                assert_eq!(outcome.then, Then::Repair { wrong: source.other() });
            }
        }
    }
}
