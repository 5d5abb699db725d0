//! A simulated file that is written past the page cache: a copy of the bitmap, a superblock.
//!
//! A write is durable when it returns. One in which the machine dies leaves each sector old or new.

use std::io;
use std::sync::Arc;

use crate::legs::simulated::content::{SECTOR, pieces};
use crate::sim::scheduler::{self, Moment};
use crate::sync::{Mutex, Rank};

/// The bytes of such a file. Clones are the same file.
#[derive(Clone)]
pub struct Medium {
    bytes: Arc<Mutex<Bytes>>,
    lying: bool,
}

struct Bytes {
    durable: Vec<u8>,
    /// What a reader sees; another thing than `durable` only when the medium lies.
    seen: Vec<u8>,
}

impl Medium {
    /// A file with this content, durable.
    pub fn new(content: Vec<u8>) -> Medium {
        let bytes = Bytes { durable: content.clone(), seen: content };
        Medium { bytes: Arc::new(Mutex::new(Rank::Leaf, bytes)), lying: false }
    }

    /// The same file, written by one who breaks O1: writes are acknowledged and not durable.
    pub fn lying(mut self) -> Medium {
        self.lying = true;
        self
    }

    /// All bytes.
    pub fn read_all(&self) -> Vec<u8> {
        self.bytes.lock().seen.clone()
    }

    /// Writes inside the file; a step of the simulation.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        log::trace!("bitmap: {} bytes at {offset}", data.len());
        match scheduler::step()? {
            Moment::Usual => self.put(offset, data),
            Moment::Last => {
                let mut from = data;
                for (sector, start, len) in pieces(offset, data.len() as u64) {
                    let (piece, rest) = from.split_at(len);
                    if scheduler::choose(2) == 0 {
                        self.put(sector * SECTOR + start as u64, piece);
                    }
                    from = rest;
                }
                scheduler::die();
            }
        }
        Ok(())
    }

    /// The power went.
    pub fn survive_power_cut(&self) {
        let mut bytes = self.bytes.lock();
        bytes.seen = bytes.durable.clone();
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let range = offset as usize..offset as usize + data.len();
        let mut bytes = self.bytes.lock();
        bytes.seen[range.clone()].copy_from_slice(data);
        if !self.lying {
            bytes.durable[range].copy_from_slice(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::{End, Plan, run};

    #[test]
    fn a_write_in_which_the_machine_dies_is_torn_at_sectors_only() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let medium = Medium::new(vec![0; 1024]);
            let written = medium.clone();
            let plan = Plan { crash_at: Some(1), ..Plan::calm(seed) };
            let report = run(plan, move || written.write(0, &[1; 1024]).unwrap());
            assert_eq!(report.end, End::Crashed, "seed {seed}");
            let bytes = medium.read_all();
            for sector in bytes.chunks(SECTOR as usize) {
                assert!(sector.iter().all(|&byte| byte == sector[0]), "seed {seed}");
            }
            seen.insert((bytes[0], bytes[512]));
        }
        assert_eq!(seen.len(), 4, "all ways to tear it occur");
    }

    #[test]
    fn a_lying_medium_forgets_when_the_power_goes() {
        let medium = Medium::new(vec![0; 512]);
        medium.clone().lying().write(0, &[1; 512]).unwrap();
        assert_eq!(medium.read_all(), [1; 512]);
        medium.survive_power_cut();
        assert_eq!(medium.read_all(), [0; 512]);
    }
}
