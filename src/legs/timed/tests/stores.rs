//! Pages and superblocks on a leg that hangs.

use super::*;
use crate::bitmap::{PAGE_SIZE, PageIndex, PageStore};
use crate::legs::Leg;
use crate::legs::LegId;
use crate::legs::simulated::{SimDisk, SimLeg};
use crate::legs::timed::{Backing, Timed, TimedPages};

/// Keeps what is written, and hangs before the door opens.
struct Store {
    door: Option<Door>,
    written: Sender<(u32, Vec<u8>)>,
}

impl PageStore for Store {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(vec![7; PAGE_SIZE])
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        assert!((bytes.as_ptr() as usize).is_multiple_of(PAGE_SIZE), "O_DIRECT asks for it");
        if let Some(door) = &self.door {
            door.pass();
        }
        self.written.send((page.0, bytes.to_vec())).unwrap();
        if page == PageIndex(666) { Err(crate::error::errno(libc::EIO)) } else { Ok(()) }
    }
}

/// The leg that the stores are on.
fn leg(backing: Backing, timeout: Duration) -> Timed<SimLeg> {
    let leg = Arc::new(SimLeg::new(LegId::A, SimDisk::new(LegId::A)));
    Timed::new(leg, backing, patience(timeout)).unwrap()
}

#[test]
fn pages_arrive_where_they_belong_also_when_there_are_many() {
    let (written, pages) = unbounded();
    let leg = leg(Backing::Network, AGES);
    let store = TimedPages::new(Box::new(Store { door: None, written }), &leg).unwrap();
    assert_eq!(store.read_all().unwrap(), vec![7; PAGE_SIZE]);
    let many: Vec<u8> = (0..130 * PAGE_SIZE).map(|at| (at / PAGE_SIZE) as u8).collect();
    store.write(PageIndex(5), &many).unwrap();
    let mut file = vec![0; 135 * PAGE_SIZE];
    for (page, bytes) in pages.try_iter() {
        file[page as usize * PAGE_SIZE..][..bytes.len()].copy_from_slice(&bytes);
    }
    assert!(file[5 * PAGE_SIZE..] == many[..]);
    for _ in 0..2 {
        refused(store.write(PageIndex(666), &[0; PAGE_SIZE]), libc::EIO);
    }
}

#[test]
fn a_page_that_hangs_times_out_and_the_next_does_not_wait_for_its_buffer() {
    let (written, pages) = unbounded();
    let door = Door::closed();
    let leg = leg(Backing::Fuse, SHORT);
    let store = Store { door: Some(door.clone()), written };
    let store = TimedPages::new(Box::new(store), &leg).unwrap();
    refused(store.write(PageIndex(1), &[1; PAGE_SIZE]), libc::ETIMEDOUT);
    refused(store.write(PageIndex(2), &[2; PAGE_SIZE]), libc::ETIMEDOUT);
    leg.give_up();
    refused(store.write(PageIndex(3), &[3; PAGE_SIZE]), libc::ENOTCONN);
    door.open();
    let mut late = [pages.recv().unwrap(), pages.recv().unwrap()];
    late.sort_unstable();
    assert_eq!(late, [(1, vec![1; PAGE_SIZE]), (2, vec![2; PAGE_SIZE])], "each with its own bytes");
}

/// Says who has written it.
struct Whose(Sender<std::thread::ThreadId>);

impl PageStore for Whose {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn write(&self, _: PageIndex, _: &[u8]) -> io::Result<()> {
        self.0.send(std::thread::current().id()).unwrap();
        Ok(())
    }
}

#[test]
fn a_page_on_a_disk_is_written_by_the_caller() {
    for (backing, by_the_caller) in [(Backing::Disk, true), (Backing::Network, false)] {
        let (whose, writers) = unbounded();
        let leg = leg(backing, AGES);
        let store = TimedPages::new(Box::new(Whose(whose)), &leg).unwrap();
        store.write(PageIndex(0), &[0; PAGE_SIZE]).unwrap();
        assert_eq!(writers.recv().unwrap() == std::thread::current().id(), by_the_caller);
    }
}
