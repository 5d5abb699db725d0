//! Listings, as the kernel reads them: it may have a part from its cache.

use std::ffi::OsStr;

use super::world::{World, file};
use crate::inode::Ino;
use crate::legs::LegId;
use crate::legs::simulated::SimLeg;
use crate::ops::Mirror;

/// What is listed of the root from `offset` on, each name with where it goes on after it: `most` names at most.
fn list(mirror: &Mirror<SimLeg>, offset: u64, most: usize) -> Vec<(String, u64)> {
    let mut listed = Vec::new();
    mirror
        .readdir(Ino::ROOT, offset, &mut |item| {
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
    let all = list(mirror, 0, 100);
    assert_eq!(all.len(), 12);
    all
}

#[test]
fn a_listing_read_in_pieces_is_the_listing() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    for most in 1..13 {
        let mut pieces = list(&mirror, 0, most);
        while let Some((_, offset)) = pieces.last() {
            let piece = list(&mirror, *offset, most);
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        assert_eq!(pieces, all);
        // And from anywhere, in any order.
        for (at, (_, offset)) in all.iter().enumerate().rev() {
            assert_eq!(list(&mirror, *offset, 100), all[at + 1..]);
        }
    }
}

#[test]
fn what_is_removed_from_the_part_that_the_kernel_had_shifts_nothing_in_the_rest() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    all[2..5].iter().for_each(|(name, _)| mirror.unlink(Ino::ROOT, OsStr::new(name)).unwrap());
    assert_eq!(list(&mirror, all[6].1, 100), all[7..]);
    // The last name of that part is among those that are gone.
    let rest = list(&mirror, all[4].1, 100);
    assert_eq!(names(&rest), names(&all[5..]), "all that is left, and no more");
}

#[test]
fn two_who_list_at_once_see_each_name_that_stays_once_and_a_new_one_if_they_begin_after_it() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    let first = list(&mirror, 0, 4);
    all[2..7].iter().for_each(|(name, _)| mirror.unlink(Ino::ROOT, OsStr::new(name)).unwrap());
    file(&mirror, "new", b"");
    let mut second = list(&mirror, 0, 4);
    let rest = list(&mirror, first[3].1, 100);
    let mut seen: Vec<_> = names(&first).into_iter().chain(names(&rest)).collect();
    seen.retain(|name| all[7..].iter().any(|(stays, _)| stays == name));
    assert_eq!(seen, names(&all[7..]));
    second.extend(list(&mirror, second[3].1, 100));
    let mut seen = names(&second);
    seen.sort_unstable();
    let mut wanted: Vec<_> = [".", "..", "new"].into_iter().chain(names(&all[7..])).collect();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
}

#[test]
fn a_listing_goes_on_from_the_other_leg() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    let mut pieces = list(&mirror, 0, 5);
    mirror.take_out(LegId::A).unwrap();
    pieces.extend(list(&mirror, pieces[4].1, 100));
    assert_eq!(pieces, all);
}

#[test]
fn a_listing_that_nobody_goes_on_with_is_let_go_of() {
    let world = World::new();
    let mirror = world.mount();
    let all = ten_files(&mirror);
    let kept = |mirror: &Mirror<SimLeg>| mirror.listings.get(Ino::ROOT.0, 0, LegId::A).is_some();
    list(&mirror, 0, 100);
    assert!(kept(&mirror), "the kernel asks once more, to hear that this was all");
    assert!(list(&mirror, all[11].1, 100).is_empty());
    assert!(!kept(&mirror));
}
