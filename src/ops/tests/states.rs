//! What a leg can be, and what can happen to it: the table of SEMANTICS as far as a mount goes.

use std::sync::Arc;

use super::world::{World, content, file, sweep, write};
use crate::inode::Ino;
use crate::legs::LegId;
use crate::legs::simulated::SimLeg;
use crate::ops::{LegState, Mirror};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    InSync,
    Recovering,
    Faulted,
    Missing,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// It gives an error that tells of a broken leg.
    Fails,
    TakenOut,
    ReAdd,
    /// And all that follows.
    Replace,
    OtherFails,
}

/// How that ends. What is refused leaves both legs as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Becomes(Is),
    Refused,
    /// The other one is left behind, and this one goes on alone.
    Alone,
}

use Ends::{Alone, Becomes, Refused};
use Event::{Fails, OtherFails, ReAdd, Replace, TakenOut};
use Is::{Faulted, InSync, Missing, Recovering};

const TABLE: [(Is, [(Event, Ends); 5]); 4] = [
    (
        InSync,
        [
            (Fails, Becomes(Faulted)),
            (TakenOut, Becomes(Faulted)),
            (ReAdd, Refused),
            (Replace, Becomes(InSync)),
            (OtherFails, Alone),
        ],
    ),
    (
        Recovering,
        [
            (Fails, Becomes(Faulted)),
            (TakenOut, Becomes(Faulted)),
            (ReAdd, Refused),
            (Replace, Refused),
            (OtherFails, Refused),
        ],
    ),
    (
        Faulted,
        [
            // Somebody else has met it before.
            (Fails, Becomes(Faulted)),
            (TakenOut, Refused),
            (ReAdd, Becomes(Recovering)),
            (Replace, Becomes(InSync)),
            (OtherFails, Refused),
        ],
    ),
    (
        Missing,
        [
            (Fails, Becomes(Missing)),
            (TakenOut, Refused),
            (ReAdd, Becomes(Recovering)),
            (Replace, Becomes(InSync)),
            (OtherFails, Refused),
        ],
    ),
];

fn is(mirror: &Mirror<SimLeg>, leg: LegId) -> Is {
    match mirror.leg_state(leg) {
        LegState::InSync => InSync,
        LegState::Resyncing => Recovering,
        LegState::Lost(lost) if lost.missing => Missing,
        LegState::Lost(_) => Faulted,
    }
}

/// A mirror of which `leg` is that, and has missed something unless it is in sync.
fn with(world: &World, leg: LegId, state: Is) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    let (_, fh) = file(&mirror, "f", b"old");
    mirror.release(fh);
    sweep(&mirror);
    let mirror = match state {
        InSync => return mirror,
        Missing => {
            world.unmount(mirror);
            world.mount_those(&[leg.other()])
        }
        Faulted | Recovering => {
            mirror.take_out(leg).unwrap();
            mirror
        }
    };
    write(&mirror, "f", b"new");
    if state == Recovering {
        world.take_in(&mirror, leg);
    }
    mirror
}

fn happens(world: &mut World, mirror: &Mirror<SimLeg>, leg: LegId, event: Event) -> Result<(), String> {
    match event {
        Fails => mirror.fault(leg, libc::EIO).map_err(|error| error.to_string()),
        TakenOut => mirror.take_out(leg).map_err(|error| error.to_string()),
        ReAdd => world.try_take_in(mirror, leg).map_err(|error| error.to_string()),
        Replace => world.replace(mirror, leg).map(|()| mirror.resync()),
        OtherFails => mirror.fault(leg.other(), libc::EIO).map_err(|error| error.to_string()),
    }
}

#[test]
fn whatever_happens_to_a_leg_it_becomes_what_the_table_says_and_so_do_the_superblocks() {
    for leg in LegId::ALL {
        for (state, row) in TABLE {
            for (event, ends) in row {
                println!("leg {leg} is {state:?}: {event:?}");
                let mut world = World::new();
                let mirror = with(&world, leg, state);
                assert_eq!((is(&mirror, leg), is(&mirror, leg.other())), (state, InSync));
                let before = world.plan();
                let happened = happens(&mut world, &mirror, leg, event);
                let (becomes, other, is_ok) = match ends {
                    Becomes(after) => (after, InSync, true),
                    Refused => (state, InSync, false),
                    Alone => (state, Faulted, true),
                };
                assert_eq!(happened.is_ok(), is_ok, "{happened:?}");
                assert_eq!((is(&mirror, leg), is(&mirror, leg.other())), (becomes, other));
                let plan = world.plan();
                match (ends, becomes) {
                    (Refused, _) => assert_eq!(plan, before),
                    (Alone, _) => assert_eq!(plan.stale, Some(leg.other())),
                    (_, Faulted | Missing) => assert_eq!(plan.stale, Some(leg)),
                    (_, Recovering) => assert_eq!(plan.source, leg.other()),
                    (_, InSync) => assert_eq!(plan.stale, None),
                }
                if is(&mirror, leg) == Recovering {
                    mirror.resync();
                    assert_eq!(is(&mirror, leg), InSync);
                }
                let expected: &[u8] = if state == InSync { b"old" } else { b"new" };
                assert_eq!(content(&mirror, "f"), expected);
                assert!(mirror.lookup(Ino::ROOT, "none".as_ref()).is_err());
            }
        }
    }
}
