//! Listings, as the kernel reads them: it may have a part from its cache.

use std::ffi::OsStr;

use super::world::{World, file};
use crate::inode::{Fh, Ino};
use crate::legs::simulated::SimLeg;
use crate::ops::Mirror;

/// What is listed from `offset` on, each name with where it goes on after it: `most` names at most.
fn list(mirror: &Mirror<SimLeg>, dir: Fh, offset: u64, most: usize) -> Vec<(String, u64)> {
    let mut listed = Vec::new();
    mirror
        .readdir(dir, offset, &mut |item| {
            let full = listed.len() == most;
            if !full {
                listed.push((item.name.display().to_string(), item.next_offset));
            }
            full
        })
        .unwrap();
    listed
}

fn names(listed: &[(String, u64)]) -> Vec<&str> {
    listed.iter().map(|(name, _)| name.as_str()).collect()
}

/// A root with ten files, and all of its listing.
fn ten_files(mirror: &Mirror<SimLeg>) -> Vec<(String, u64)> {
    for i in 0..10 {
        file(mirror, &format!("f{i}"), b"");
    }
    let dir = mirror.opendir(Ino::ROOT).unwrap();
    let all = list(mirror, dir, 0, 100);
    mirror.releasedir(dir);
    assert_eq!(all.len(), 12);
    all
}

#[test]
fn a_listing_read_in_pieces_is_the_listing() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    for most in 1..13 {
        let dir = mirror.opendir(Ino::ROOT).unwrap();
        let mut pieces = list(&mirror, dir, 0, most);
        while let Some((_, offset)) = pieces.last() {
            let piece = list(&mirror, dir, *offset, most);
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        assert_eq!(pieces, all);
        // And from anywhere, in any order.
        for (at, (_, offset)) in all.iter().enumerate().rev() {
            assert_eq!(list(&mirror, dir, *offset, 100), all[at + 1..]);
        }
    }
}

#[test]
fn what_is_removed_from_the_part_that_the_kernel_had_shifts_nothing_in_the_rest() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    all[2..5].iter().for_each(|(name, _)| mirror.unlink(Ino::ROOT, OsStr::new(name)).unwrap());
    let dir = mirror.opendir(Ino::ROOT).unwrap();
    assert_eq!(list(&mirror, dir, all[6].1, 100), all[7..]);
    // The last name of that part is among those that are gone.
    let dir = mirror.opendir(Ino::ROOT).unwrap();
    let rest = list(&mirror, dir, all[4].1, 100);
    assert_eq!(names(&rest), names(&all[5..]), "all that is left, and no more");
}
