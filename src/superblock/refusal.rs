//! What a refusal tells the user: what was found, where, and what resolves it.

use std::path::Path;

use super::{DivergentBecause, Geometry, Refusal, SlotFault, VERSION};
use crate::error::{Error, errno};
use crate::legs::{LegId, PerLeg};
use crate::shell::quoted;

impl Refusal {
    /// As an error, with the legs called as the user called them.
    pub fn explain(&self, paths: &PerLeg<&Path>) -> Error {
        let leg = |leg: LegId| format!("leg {leg} at {}", paths[leg].display());
        let both = || format!("{} and {}", leg(LegId::A), leg(LegId::B));
        match self {
            Refusal::Missing(id, number) => missing(&leg(*id), *number),
            Refusal::Empty(id) => Error::new(format!("{} is empty: not a leg", leg(*id)))
                .hint("Is the disk that belongs there mounted? Nothing has been changed on the other leg."),
            Refusal::NotAMirror(id) => Error::new(format!(
                "{} is not a leg of a mirror: it has files but no .mirrorfs/superblock",
                leg(*id)
            ))
            .hint("Check the path. If `mirrorfs create` was interrupted, run it again."),
            Refusal::NeitherIsAMirror => Error::new(format!("{} are not a mirror", both())).hint(format!(
                "To make one: mirrorfs create {} {}",
                paths[LegId::A].display(),
                paths[LegId::B].display()
            )),
            Refusal::Damaged(id, slots) => damaged(&leg(*id), paths, *id, slots),
            Refusal::NewerVersion(id, version) => Error::new(format!(
                "{} has format version {version}; this mirrorfs knows versions up to {VERSION}",
                leg(*id)
            ))
            .hint("Use the newer mirrorfs that wrote it."),
            Refusal::OtherMirror(mirrors) => Error::new(format!(
                "{} belong to different mirrors ({} and {})",
                both(),
                mirrors[LegId::A],
                mirrors[LegId::B]
            ))
            .hint("Check the paths: `mirrorfs examine LEG` tells which leg belongs where."),
            Refusal::SameLeg => Error::new(format!("{} are the same leg, or one is a copy of it", both()))
                .hint("Give the two different legs; a copy of a leg cannot stand in for the other one."),
            Refusal::NotPeers => {
                Error::new(format!("{} are of one mirror but not each other's peer", both()))
                    .hint("They have been replaced: `mirrorfs examine LEG` shows who belongs to whom.")
            }
            Refusal::Replaced(id) => Error::new(format!(
                "{} has been replaced: leg {} has another leg {id} by now",
                leg(*id),
                id.other()
            ))
            .hint(format!(
                "Name the new directory in its place, in /etc/fstab too; or \"missing\" to go on without leg {id}."
            )),
            Refusal::NotTakenIn(id) => Error::new(format!(
                "{} is not in use: it was to replace leg {id}, and leg {} has not taken it in",
                leg(*id),
                id.other()
            ))
            .hint(format!(
                "Mount leg {} with the leg {id} that it had, or with \"missing\" in its place, and type \
                 \"mirrorfs replace\" again.",
                id.other()
            )),
            Refusal::Swapped => Error::new(format!("{} are given in the wrong order", both())).hint(format!(
                "What is called B here was created as A. Use: {} {}",
                paths[LegId::B].display(),
                paths[LegId::A].display()
            )),
            Refusal::Geometry(found) => geometry(&both(), found),
            Refusal::OtherRole(id) => Error::new(format!("{} was created as leg {}", leg(*id), id.other()))
                .hint(format!(
                    "Give it in its own place: {}",
                    match id {
                        LegId::A => format!("missing {}", paths[LegId::A].display()),
                        LegId::B => format!("{} missing", paths[LegId::B].display()),
                    }
                )),
            Refusal::Incomplete(id) => Error::new(format!(
                "{} is not complete: it was being made equal to leg {}",
                leg(*id),
                id.other()
            ))
            .hint(format!("It cannot serve alone. Mount it together with leg {}.", id.other())),
            Refusal::Divergent(because) => divergent(&both(), because, paths),
        }
    }
}

fn missing(leg: &str, number: i32) -> Error {
    let hint = match number {
        libc::ENOENT => "Check the path, and whether the disk that belongs there is mounted.",
        libc::ENOTDIR => "A leg is a directory.",
        libc::ENOTCONN => "A mount whose daemon has died lies there: umount it.",
        libc::EACCES | libc::EPERM => "Run as the directory's owner or as root.",
        _ => "See in the system log what is wrong with that filesystem.",
    };
    Error::new(format!("{leg} is missing")).because(errno(number)).hint(hint)
}

fn damaged(leg: &str, paths: &PerLeg<&Path>, id: LegId, slots: &[SlotFault; 2]) -> Error {
    let [first, second] = slots;
    let other = id.other();
    Error::new(format!("the superblock of {leg} is damaged: slot 0 {first}, slot 1 {second}")).hint(format!(
        "Restore {0}/.mirrorfs/superblock from a backup. Or make the mirror anew from the other leg, \
         whose files are whole: move all files of {0} away, remove .mirrorfs on both, then: mirrorfs create \
         {1} {2} --source {other}",
        paths[id].display(),
        paths[LegId::A].display(),
        paths[LegId::B].display(),
    ))
}

fn geometry(both: &str, found: &PerLeg<Geometry>) -> Error {
    let says = |leg: LegId| {
        let Geometry { chunk_size, bitmap_slots, bitmap_place } = found[leg];
        format!("{leg}: chunks of {chunk_size} bytes, {bitmap_slots} slots, bitmap {bitmap_place:?}")
    };
    Error::new(format!("{both} contradict each other ({}; {})", says(LegId::A), says(LegId::B)))
        .hint("No mirrorfs writes that. Keep both as they are and compare them: mirrorfs compare A B")
}

fn divergent(both: &str, because: &DivergentBecause, paths: &PerLeg<&Path>) -> Error {
    let why = match because {
        DivergentBecause::Generations => "neither history contains the other".to_owned(),
        DivergentBecause::BothCallTheOtherStale => "each went on without the other".to_owned(),
        DivergentBecause::WentOn(leg) => format!("leg {leg} was left behind and has changed nevertheless"),
        DivergentBecause::Sources => "they contradict each other about which one is up to date".to_owned(),
    };
    Error::new(format!("{both} have diverged: {why}"))
        .hint(format!("mirrorfs does not choose. {}", ways_out(paths)))
}

/// What to do with legs that have diverged.
pub fn ways_out(paths: &PerLeg<&Path>) -> String {
    let [a, b] = LegId::ALL.map(|leg| quoted(paths[leg]));
    let resolve = format!("mirrorfs resolve {a} {b}");
    format!(
        "To see what differs: {resolve} --list. To keep leg A's files, and leg B's aside: {resolve} --discard-leg B. \
         To keep leg B's, and leg A's aside: {resolve} --discard-leg A"
    )
}
