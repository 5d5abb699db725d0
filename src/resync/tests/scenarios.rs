//! What a user may have been doing when it crashed.

use super::world::{CHUNK, World};
use crate::legs::{Leg, RenameMode};

/// The tree that both legs have, durable and clean.
pub fn base<L: Leg>(world: &World<L>) {
    for dir in ["d1", "d2", "d1/sub", "d1/sub/deep", "d2/empty", "p", "p/c"] {
        world.mkdir(dir);
    }
    world.file("d1/f", &[1; 3000]);
    world.file("d1/g", &[2; 100]);
    world.file("d1/sub/h", b"h");
    world.file("d1/sub/deep/i", b"i");
    world.file("p/c/x", b"x");
    world.file("big", &vec![5; 3 * CHUNK as usize]);
    world.file("huge", &vec![6; (8 << 10) + 100]);
    world.file("d2/linked", b"linked");
    world.link("d2/linked", "d1/also");
    world.symlink("d2/sym", "target");
    world.fifo("d2/fifo");
    world.attributes("d1/g", 0o4755, 7, "value");
}

/// A name, and what is done.
pub type Scenario<L> = (&'static str, fn(&World<L>));

pub fn all<L: Leg>() -> Vec<Scenario<L>> {
    vec![
        ("a file moves across directories", |w| w.mv("d1/f", "d2/f")),
        ("a directory with contents moves", |w| w.mv("d1/sub", "d2/sub")),
        ("two files are exchanged", |w| w.rename("d1/f", "d2/linked", RenameMode::Exchange)),
        ("two directories are exchanged", |w| w.rename("d1/sub", "p", RenameMode::Exchange)),
        ("a file is renamed over another", |w| w.mv("d1/f", "d2/linked")),
        ("a directory moves into one that is new", |w| {
            w.mkdir("new");
            w.mkdir("new/er");
            w.mv("d1/sub", "new/er/sub");
            w.touch("new/er/sub/more");
        }),
        ("two directories swap names by way of a third", |w| {
            w.mv("d1", "tmp");
            w.mv("d2", "d1");
            w.mv("tmp", "d2");
            w.touch("d2/after");
        }),
        ("parent and child change places", |w| {
            w.mv("p/c", "c");
            w.mv("p", "c/p");
        }),
        ("a hard link is made", |w| {
            w.link("d1/f", "d2/f2");
            w.link("d1/f", "f3");
        }),
        ("a hard link is removed", |w| w.unlink("d1/also")),
        ("a new file gets a second name", |w| {
            w.file("d1/n", b"new");
            w.link("d1/n", "d2/n");
            w.unlink("d1/n");
        }),
        ("a file is made anew under its name", |w| {
            w.unlink("d1/f");
            w.file("d1/f", &[9; 3000]);
        }),
        ("another type takes the name", |w| {
            w.unlink("d1/f");
            w.mkdir("d1/f");
            w.touch("d1/f/in");
            w.rmdir("d2/empty");
            w.symlink("d2/empty", "elsewhere");
        }),
        ("a deep new tree", |w| {
            let mut path = String::from("n");
            for depth in 0..6 {
                w.mkdir(&path);
                w.file(&format!("{path}/file"), &[depth; 5000]);
                path.push_str("/n");
            }
            w.file("n/large", &vec![3; (8 << 10) + 5000]);
        }),
        ("a tree is removed", |w| {
            w.unlink("d1/sub/deep/i");
            w.rmdir("d1/sub/deep");
            w.unlink("d1/sub/h");
            w.rmdir("d1/sub");
            w.unlink("huge");
        }),
        ("a symlink points elsewhere, a fifo is renamed", |w| {
            w.unlink("d2/sym");
            w.symlink("d2/sym", "other");
            w.mv("d2/fifo", "fifo");
        }),
        ("attributes change", |w| {
            w.attributes("d1/f", 0o2711, 3, "other");
            w.attributes("d2", 0o1777, 4, "dir");
            w.no_xattr("d1/g");
        }),
        ("data is written here and there", |w| {
            w.write("big", CHUNK + 10, b"one");
            w.write("big", 2 * CHUNK - 5, &[8; 10]);
            w.write("huge", (8 << 10) + 90, &[7; 50]);
            w.write("d1/g", 50, b"drops suid");
        }),
        ("a sparse file grows", |w| {
            w.touch("sparse");
            w.truncate("sparse", 6 * CHUNK);
            w.write("sparse", 3 * CHUNK + 7, b"island");
        }),
        ("a file is cut and grows again", |w| {
            w.truncate("big", CHUNK + 1000);
            w.truncate("big", 2 * CHUNK);
            w.write("big", 2 * CHUNK, b"end");
            w.truncate("d1/f", 0);
        }),
        ("an object is made and gone again", |w| {
            w.file("d1/short", b"lived");
            w.unlink("d1/short");
            w.mkdir("d1/shorter");
            w.rmdir("d1/shorter");
        }),
        ("a child leaves and its parent is removed", |w| {
            w.mv("p/c", "d2/c");
            w.rmdir("p");
        }),
        ("a moved directory is filled, emptied and removed", |w| {
            w.mv("p/c", "c");
            w.file("c/y", b"y");
            w.mv("c/x", "d1/x");
            w.mv("c/y", "d1/y");
            w.rmdir("c");
        }),
        ("a written file is renamed over the old one, again and again", |w| {
            for round in 0..3 {
                w.file("d1/f.tmp", &[round; 4000]);
                w.mv("d1/f.tmp", "d1/f");
            }
        }),
    ]
}
