//! A copy of the bitmap in a file: O_DIRECT and O_DSYNC, past the page cache, which could write an
//! old page back behind our back. Where the filesystem has no O_DIRECT, through the page cache with
//! O_DSYNC, and synced and dropped from it before reading.
//!
//! Must never grow the file, and never make a hole.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};

use super::format;
use super::host::PageStore;
use super::pages::Pages;
use super::{PAGE_SIZE, PageIndex};
use crate::error::errno;

/// Behind a file's name while it is being made: ours, as beside a bitmap elsewhere may lie anything of the user's.
const UNFINISHED: &str = ".mirrorfs-new";

/// An open bitmap file.
pub struct FileStore {
    file: OwnedFd,
    /// Length in bytes when it was opened.
    len: u64,
    direct: AtomicBool,
}

impl FileStore {
    /// Makes the file anew with these bytes, durably, in place of one that may be there. A crash
    /// leaves the old file or the new one.
    pub fn create(dir: impl AsFd, name: &Path, image: &[u8]) -> io::Result<FileStore> {
        let dir = dir.as_fd();
        let mut unfinished = name.as_os_str().to_owned();
        unfinished.push(UNFINISHED);
        match fs::unlinkat(dir, &unfinished, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(dir, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
        let filled = write_through(&file, image, 0).and_then(|()| Ok(fs::fsync(&file)?));
        let named = filled.and_then(|()| Ok(fs::renameat(dir, &unfinished, dir, name)?));
        if let Err(error) = named {
            // Best effort: what is left is replaced by the next try.
            let _ = fs::unlinkat(dir, &unfinished, AtFlags::empty());
            return Err(error);
        }
        sync_directory(dir, name)?;
        FileStore::open(dir, name)
    }

    /// Opens a file that is there. EINVAL if it is not a regular file, ELOOP if it is a symlink.
    pub fn open(dir: impl AsFd, name: &Path) -> io::Result<FileStore> {
        FileStore::open_for(dir, name, OFlags::RDWR | OFlags::DSYNC)
    }

    /// The same, for reading only: every [`write`](PageStore::write) is EBADF.
    pub fn open_to_read(dir: impl AsFd, name: &Path) -> io::Result<FileStore> {
        FileStore::open_for(dir, name, OFlags::RDONLY)
    }

    fn open_for(dir: impl AsFd, name: &Path, access: OFlags) -> io::Result<FileStore> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |flags| fs::openat(&dir, name, flags, Mode::empty());
        let (file, direct) = match open(flags | OFlags::DIRECT) {
            Err(rustix::io::Errno::INVAL) => (open(flags)?, false),
            opened => (opened?, true),
        };
        let stat = fs::fstat(&file)?;
        if !fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(errno(libc::EINVAL));
        }
        Ok(FileStore { file, len: stat.st_size as u64, direct: AtomicBool::new(direct) })
    }

    /// Takes the file for this process alone, as long as it is open. EWOULDBLOCK if another has it.
    pub fn lock(&self) -> io::Result<()> {
        Ok(fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive)?)
    }

    /// Whether `name` in `dir` is still this file, and as long as it was.
    pub fn is_in_place(&self, dir: impl AsFd, name: &Path) -> io::Result<bool> {
        let (own, there) = (fs::fstat(&self.file)?, fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW));
        Ok(there.is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino))
            && own.st_size as u64 == self.len)
    }

    /// Whether writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// Goes through the page cache from now on. O_DSYNC stays.
    fn fall_back(&self) -> io::Result<()> {
        let flags = fs::fcntl_getfl(&self.file)?;
        fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Does `io`, once more through the page cache if O_DIRECT turns out not to work.
    fn with_fallback<T>(&self, mut io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match io() {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.is_direct() => {
                self.fall_back()?;
                io()
            }
            result => result,
        }
    }

    fn has_holes(&self) -> io::Result<bool> {
        match fs::seek(&self.file, fs::SeekFrom::Hole(0)) {
            Ok(hole) => Ok(hole < self.len),
            Err(rustix::io::Errno::NXIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn read_whole(&self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.is_direct() {
            // What another program left in the page cache is written and read again from the disk.
            fs::fsync(&self.file)?;
            fs::fadvise(&self.file, 0, None, fs::Advice::DontNeed)?;
        }
        let mut at = 0;
        while at < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[at..], at as u64) {
                Ok(0) => break,
                Ok(read) => at += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // Direct reads go on at page boundaries; a short one in between ends the file.
            if !at.is_multiple_of(PAGE_SIZE) {
                break;
            }
        }
        Ok(at)
    }
}

impl PageStore for FileStore {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        if self.len > format::file_len(format::MAX_SLOTS) as u64 {
            return Err(errno(libc::EFBIG));
        }
        if self.has_holes()? {
            return Err(errno(libc::EUCLEAN));
        }
        let mut buf = Pages::new(self.len as usize)?;
        let read = self.with_fallback(|| self.read_whole(&mut buf))?;
        Ok(buf[..read.min(self.len as usize)].to_vec())
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        let start = u64::from(page.0) * PAGE_SIZE as u64;
        if start + bytes.len() as u64 > self.len {
            return Err(errno(libc::EFBIG));
        }
        // ORDER: O_DSYNC makes each write durable before it returns.
        if self.is_direct() && !(bytes.as_ptr() as usize).is_multiple_of(PAGE_SIZE) {
            let mut aligned = Pages::new(bytes.len())?;
            aligned.copy_from_slice(bytes);
            return self.with_fallback(|| write_through(&self.file, &aligned, start));
        }
        self.with_fallback(|| write_through(&self.file, bytes, start))
    }
}

fn write_through(file: &OwnedFd, bytes: &[u8], start: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], start + done as u64) {
            Ok(0) => return Err(errno(libc::EIO)),
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes the name durable. `dir` may be a descriptor that cannot be synced itself (O_PATH).
fn sync_directory(dir: impl AsFd, name: &Path) -> io::Result<()> {
    let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::fsync(fs::openat(dir, parent, flags, Mode::empty())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn image(pages: usize) -> Vec<u8> {
        (0..pages * PAGE_SIZE).map(|at| (at / PAGE_SIZE + at) as u8).collect()
    }

    fn place() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn what_was_written_is_read_also_by_another() {
        let (dir, fd) = place();
        let name = Path::new("bitmap");
        let store = FileStore::create(&fd, name, &image(9)).unwrap();
        let mut expected = image(9);
        let mut pages = Pages::new(2 * PAGE_SIZE).unwrap();
        pages.fill(0x5a);
        expected[3 * PAGE_SIZE..5 * PAGE_SIZE].fill(0x5a);
        store.write(PageIndex(3), &pages).unwrap();
        store.write(PageIndex(8), &vec![7; PAGE_SIZE + 1][1..]).unwrap();
        expected[8 * PAGE_SIZE..].fill(7);
        assert_eq!(store.read_all().unwrap(), expected);
        assert_eq!(FileStore::open(&fd, name).unwrap().read_all().unwrap(), expected);
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), expected);
        assert!(!dir.path().join("bitmap.mirrorfs-new").exists());
    }

    #[test]
    fn it_works_the_same_through_the_page_cache() {
        let (_dir, fd) = place();
        let store = FileStore::create(&fd, Path::new("bitmap"), &image(3)).unwrap();
        store.fall_back().unwrap();
        assert!(!store.is_direct());
        store.write(PageIndex(1), &[1; PAGE_SIZE]).unwrap();
        let mut expected = image(3);
        expected[PAGE_SIZE..2 * PAGE_SIZE].fill(1);
        assert_eq!(store.read_all().unwrap(), expected);
    }

    #[test]
    fn the_file_never_grows() {
        let (_dir, fd) = place();
        let store = FileStore::create(&fd, Path::new("bitmap"), &image(2)).unwrap();
        let error = store.write(PageIndex(2), &[0; PAGE_SIZE]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        assert_eq!(store.read_all().unwrap().len(), 2 * PAGE_SIZE);
    }

    #[test]
    fn holes_are_an_error_and_a_short_file_is_read_as_far_as_it_goes() {
        let (dir, fd) = place();
        let name = Path::new("bitmap");
        FileStore::create(&fd, name, &image(8)).unwrap();
        let file = File::options().write(true).open(dir.path().join(name)).unwrap();
        file.set_len(5000).unwrap();
        assert_eq!(FileStore::open(&fd, name).unwrap().read_all().unwrap(), image(8)[..5000]);
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; PAGE_SIZE], (1 << 20) - PAGE_SIZE as u64).unwrap();
        let error = FileStore::open(&fd, name).unwrap().read_all().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EUCLEAN));
        file.set_len(0).unwrap();
        assert!(FileStore::open(&fd, name).unwrap().read_all().unwrap().is_empty());
    }

    #[test]
    fn a_replaced_file_is_noticed_and_a_lock_excludes() {
        let (dir, fd) = place();
        let name = Path::new("bitmap");
        let store = FileStore::create(&fd, name, &image(2)).unwrap();
        store.lock().unwrap();
        let error = FileStore::open(&fd, name).unwrap().lock().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EWOULDBLOCK));
        assert!(store.is_in_place(&fd, name).unwrap());
        std::fs::copy(dir.path().join(name), dir.path().join("copy")).unwrap();
        std::fs::rename(dir.path().join("copy"), dir.path().join(name)).unwrap();
        assert!(!store.is_in_place(&fd, name).unwrap());
    }

    #[test]
    fn symlinks_and_directories_are_no_bitmap_files() {
        let (dir, fd) = place();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("bitmap")).unwrap();
        let error = FileStore::open(&fd, Path::new("bitmap")).map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert!(FileStore::open(&fd, Path::new("socket")).is_err());
    }
}
