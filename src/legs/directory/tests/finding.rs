use super::*;
use crate::legs::{Handle, Identity, RenameMode, Timestamp};

/// The same leg as recovery sees it with and without handles.
fn both_ways(test: impl Fn(&Fixture)) {
    let f = Fixture::new();
    assert!(f.leg.has_handles(), "needs CAP_DAC_READ_SEARCH and a filesystem with handles");
    test(&f);
    let mut f = Fixture::new();
    f.leg.handles = false;
    test(&f);
}

fn identity(f: &Fixture, node: &Node) -> Identity {
    let identity = f.leg.identity(node).unwrap();
    assert_eq!(identity.opens(), f.leg.has_handles());
    assert!(identity.handle.is_some(), "its birth tells it from others of its number");
    identity
}

#[test]
fn an_object_is_found_wherever_it_went_and_not_once_it_is_gone() {
    both_ways(|f| {
        let dir = f.directory("d");
        let deep = f.make(&dir, "deep", Make::Directory { mode: 0o700 });
        let file = f.make(&deep, "f", Make::File { mode: 0o600 });
        let link = f.make(&deep, "l", Make::Symlink { target: os("/") });
        for node in [&dir, &deep, &file, &link, &f.root()] {
            let wanted = identity(f, node);
            assert_eq!(identity(f, &f.leg.find(&wanted).unwrap()), wanted);
        }
        let moved = (identity(f, &deep), identity(f, &file));
        f.leg.rename(&marked(), (&dir, os("deep")), (&f.root(), os("up")), RenameMode::Replace).unwrap();
        for wanted in [moved.0, moved.1] {
            assert_eq!(identity(f, &f.leg.find(&wanted).unwrap()), wanted);
        }
        let late = f.file("made after the first search");
        assert_eq!(f.leg.find(&identity(f, &late)).unwrap().0.ino, late.0.ino);
        f.leg.unlink(&marked(), &deep, os("f")).unwrap();
        // Still pinned by `file`, but for the mirror it is gone.
        refused(f.leg.find(&moved.1), libc::ESTALE);
    });
}

#[test]
fn without_handles_a_number_used_again_is_not_the_object_before() {
    let mut f = Fixture::new();
    f.leg.handles = false;
    let now = identity(&f, &f.file("now"));
    let before = Identity { handle: Some(Handle::of_birth(Timestamp { secs: 1, nanos: 2 })), ..now };
    assert_eq!(f.leg.find(&now).unwrap().0.ino, now.ino);
    refused(f.leg.find(&before), libc::ESTALE);
}

#[test]
fn a_deep_tree_is_walked_without_keeping_descriptors() {
    let mut f = Fixture::new();
    f.leg.handles = false;
    let mut at = f.root();
    for _ in 0..300 {
        at = f.make(&at, "d", Make::Directory { mode: 0o700 });
    }
    let bottom = identity(&f, &f.make(&at, "bottom", Make::File { mode: 0o600 }));
    let beside = identity(&f, &f.file("zz beside"));
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for wanted in [bottom, beside] {
        assert_eq!(f.leg.find(&wanted).unwrap().0.ino, wanted.ino);
    }
    assert!(open() <= before + 50, "the walk left descriptors open");
    refused(f.leg.find(&Identity { ino: u64::MAX - 1, handle: None }), libc::ESTALE);
}

#[test]
fn what_waits_in_an_area_is_found_too() {
    both_ways(|f| {
        let parked = f.leg.area(crate::legs::Area::Parked).unwrap();
        let node = f.make(&parked, "x", Make::File { mode: 0o600 });
        assert_eq!(f.leg.find(&identity(f, &node)).unwrap().0.ino, node.0.ino);
    });
}
