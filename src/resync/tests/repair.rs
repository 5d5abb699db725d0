//! One leg did it, the other could not: it is undone where it was done.

use super::directory::ground;
use super::world::{Medium, World, assert_equal, tree};
use crate::bitmap::WriteIntent;
use crate::legs::directory::DirectoryLeg;
use crate::legs::{LegId, RenameMode};
use crate::resync::{Name, Progress, Repair};

type Leg = DirectoryLeg;

struct Undone {
    what: &'static str,
    done: fn(&World<Leg>),
    /// Directory and name of each entry it changed.
    names: &'static [(&'static str, &'static str)],
    /// The objects it was about, by their paths before.
    objects: &'static [&'static str],
}

const TABLE: [Undone; 8] = [
    Undone { what: "create", done: |w| w.file("d1/n", b"n"), names: &[("d1", "n")], objects: &[] },
    Undone { what: "unlink", done: |w| w.unlink("d1/f"), names: &[("d1", "f")], objects: &[] },
    Undone {
        what: "unlink of one name of two",
        done: |w| w.unlink("d1/also"),
        names: &[("d1", "also")],
        objects: &["d1/also"],
    },
    Undone { what: "rmdir", done: |w| w.rmdir("d2/empty"), names: &[("d2", "empty")], objects: &[] },
    Undone {
        what: "rename",
        done: |w| w.mv("d1/sub", "d2/s"),
        names: &[("d1", "sub"), ("d2", "s")],
        objects: &["d1/sub"],
    },
    Undone {
        what: "rename over another",
        done: |w| w.mv("d1/f", "huge"),
        names: &[("d1", "f"), ("", "huge")],
        objects: &["d1/f"],
    },
    Undone {
        what: "exchange",
        done: |w| w.rename("d1/sub", "p", RenameMode::Exchange),
        names: &[("d1", "sub"), ("", "p")],
        objects: &["d1/sub", "p"],
    },
    Undone { what: "link", done: |w| w.link("d1/f", "d2/l"), names: &[("d2", "l")], objects: &["d1/f"] },
];

#[test]
fn what_one_leg_did_alone_is_undone_there() {
    for undone in TABLE {
        for changed in LegId::ALL {
            let (ground, medium) = ground();
            let mut world = World::new(ground.legs.clone(), &medium);
            world.only(changed);
            let directories: Vec<_> = undone.names.iter().map(|(dir, _)| world.ids(dir)).collect();
            let objects: Vec<_> = undone.objects.iter().map(|path| world.ids(path)).collect();
            let before = tree(&*ground.legs[changed.other()]);
            (undone.done)(&world);
            let names: Vec<_> = undone.names.iter().map(|(_, name)| name.as_ref()).collect();
            let names: Vec<_> =
                directories.into_iter().zip(names).map(|(dir, name)| Name { dir, name }).collect();
            let repair = Repair {
                legs: &world.legs,
                bitmap: &world.bitmap,
                source: changed.other(),
                host: &super::world::Quiet,
                progress: &Progress::default(),
            };
            repair.names(&WriteIntent::before_first_mount(), &names, &objects).unwrap();
            let what = format!("{} on {changed}", undone.what);
            assert_eq!(tree(&*ground.legs[changed.other()]), before, "{what}: the right leg was changed");
            assert_equal(&World::new(ground.legs.clone(), &Medium::new()), &what);
        }
    }
}

#[test]
fn a_write_that_one_leg_did_further_is_brought_back() {
    let (ground, medium) = ground();
    let mut world = World::new(ground.legs.clone(), &medium);
    world.only(LegId::A);
    let object = world.ids("d1/f");
    world.write("d1/f", 2900, &[4; 9000]);
    let repair = Repair {
        legs: &world.legs,
        bitmap: &world.bitmap,
        source: LegId::B,
        host: &super::world::Quiet,
        progress: &Progress::default(),
    };
    let written = 2900..11_900;
    repair.object(&WriteIntent::before_first_mount(), object, std::slice::from_ref(&written)).unwrap();
    assert_equal(&World::new(ground.legs.clone(), &Medium::new()), "a longer write on A");
}
