//! flock(2) and fcntl(2) locks.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::common::mounted;
use crate::common::raw::lock_range;

#[test]
fn flock_keeps_the_second_owner_out() {
    let Some(test) = mounted("flock") else { return };
    let path = test.mnt.join("file");
    let first = File::create(&path).expect("create");
    let second = File::open(&path).expect("open");
    flock(&first, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive).expect("free again");
    drop(second);
    test.umount_and_compare();
}

#[test]
fn fcntl_locks_keep_ranges_apart() {
    let Some(test) = mounted("fcntl") else { return };
    let path = test.mnt.join("file");
    let first = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
    let second = File::options().read(true).write(true).open(&path).expect("open");
    lock_range(&first, 0, 100).expect("nobody has it");
    lock_range(&second, 100, 100).expect("a range beside it");
    let taken = lock_range(&second, 50, 10).expect_err("the first has it");
    assert_eq!(taken.raw_os_error(), Some(libc::EAGAIN));
    drop(first);
    lock_range(&second, 50, 10).expect("free again");
    drop(second);
    test.umount_and_compare();
}
