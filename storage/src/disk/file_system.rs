//! The real disk: a directory of the operating system, Linux or macOS.
//!
//! Invariant: nothing is buffered here and nothing is durable before its sync call returned; an error is handed on
//! with the call and the file, never retried (except an interrupted call, which did nothing). Every name is
//! looked up from the directory's own handle, so a directory moved while open stays the same store.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
#[cfg(target_os = "linux")]
use rustix::io::ReadWriteFlags;
use rustix::io::{Errno, retry_on_intr};

use super::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, OpenMode, Verb, refuse_unless_plain,
};

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("piggin-storage knows how to make files durable on Linux and macOS only");

/// What `zero` writes at once: large enough that the calls cost nothing beside the bytes.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A directory of the file system.
#[derive(Debug)]
pub struct FileSystemDisk {
    directory: File,
    /// The directory's path, only to name it in errors.
    path: String,
}

impl FileSystemDisk {
    /// The disk of an existing directory.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        let path = path.as_ref();
        Ok(Self {
            directory: open_directory(path)?,
            path: path.display().to_string(),
        })
    }

    /// The disk of a directory that is made if it is missing. Its parent must exist, and is synced even when
    /// the directory was there: whoever made it may have been stopped before its name was durable.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let failed = |errno: Errno| error(Verb::Open, &path.display().to_string(), &errno.into());
        match retry_on_intr(|| rustix::fs::mkdir(path, Mode::from_raw_mode(0o777))) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let disk = Self::new(path)?;
        // Asked through the new directory, not its path: right for `.` and for a link to a directory as well.
        let parent = retry_on_intr(|| {
            rustix::fs::openat(&disk.directory, "..", directory_flags(), Mode::empty())
        })
        .map_err(failed)?;
        sync_directory(&File::from(parent), "..")?;
        Ok(disk)
    }

    fn open_file(&self, verb: Verb, name: &str, flags: OFlags) -> Result<OwnedFd, DiskError> {
        refuse_unless_plain(verb, name)?;
        // A link would be a file elsewhere, which no directory sync of ours makes durable.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        retry_on_intr(|| {
            rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o666))
        })
        .map_err(|errno| error(verb, name, &errno.into()))
    }

    fn list_names(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let entry = entry?;
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Some file systems do not tell here.
                let name = entry.file_name();
                match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    // Removed meanwhile.
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno),
                }
            }
            if kind.is_file() {
                // A name that is no text is not ours, but whoever looks for foreign files must see it.
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Disk for FileSystemDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let flags = match mode {
            OpenMode::Existing => OFlags::RDWR,
            OpenMode::ReadOnly => OFlags::RDONLY,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let file = File::from(self.open_file(Verb::Open, name, flags)?);
        let plain = file
            .metadata()
            .map_err(|cause| error(Verb::Open, name, &cause))?
            .is_file();
        if !plain {
            let kind = DiskErrorKind::Other("not a plain file".to_owned());
            return Err(DiskError {
                verb: Verb::Open,
                file: name.to_owned(),
                kind,
            });
        }
        let writable = mode != OpenMode::ReadOnly;
        Ok(Arc::new(FileSystemFile {
            file,
            name: name.to_owned(),
            writable,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        refuse_unless_plain(Verb::Rename, from)?;
        refuse_unless_plain(Verb::Rename, to)?;
        retry_on_intr(|| rustix::fs::renameat(&self.directory, from, &self.directory, to))
            .map_err(|errno| error(Verb::Rename, from, &errno.into()))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        refuse_unless_plain(Verb::Remove, name)?;
        retry_on_intr(|| rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()))
            .map_err(|errno| error(Verb::Remove, name, &errno.into()))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.list_names()
            .map_err(|errno| error(Verb::List, &self.path, &errno.into()))
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        sync_directory(&self.directory, &self.path)
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        let file = self.open_file(Verb::Lock, name, OFlags::RDWR | OFlags::CREATE)?;
        // flock, not fcntl: it belongs to this open file, so a second store in this process is refused too.
        match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Box::new(FileSystemLock { file })),
            Err(Errno::WOULDBLOCK) => {
                let kind = DiskErrorKind::Locked;
                Err(DiskError {
                    verb: Verb::Lock,
                    file: name.to_owned(),
                    kind,
                })
            }
            Err(errno) => Err(error(Verb::Lock, name, &errno.into())),
        }
    }
}

/// A file of the directory.
#[derive(Debug)]
struct FileSystemFile {
    file: File,
    name: String,
    writable: bool,
}

impl FileSystemFile {
    fn error(&self, verb: Verb, cause: &io::Error) -> DiskError {
        error(verb, &self.name, cause)
    }

    fn would_wait(&self) -> DiskError {
        DiskError {
            verb: Verb::Read,
            file: self.name.clone(),
            kind: DiskErrorKind::WouldWait,
        }
    }

    /// The system would say "bad file descriptor" or "invalid argument", by call.
    fn refuse_unless_writable(&self, verb: Verb) -> Result<(), DiskError> {
        if self.writable {
            return Ok(());
        }
        Err(DiskError {
            verb,
            file: self.name.clone(),
            kind: DiskErrorKind::ReadOnly,
        })
    }
}

impl DiskFile for FileSystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|cause| self.error(Verb::Read, &cause))
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        match read_without_waiting(&self.file, buffer, offset) {
            // A part of it is in memory, the file ends, or its file system cannot tell: whoever may wait finds out.
            Ok(read) if read < buffer.len() => Err(self.would_wait()),
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => {
                Err(self.would_wait())
            }
            Err(errno) => Err(self.error(Verb::Read, &errno.into())),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.refuse_unless_writable(Verb::Write)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|cause| self.error(Verb::Write, &cause))
    }

    fn sync(&self) -> Result<(), DiskError> {
        // On macOS the standard library asks the drive itself to flush (`F_FULLFSYNC`).
        self.file
            .sync_data()
            .map_err(|cause| self.error(Verb::Sync, &cause))
    }

    fn length(&self) -> Result<u64, DiskError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|cause| self.error(Verb::Length, &cause))?;
        Ok(metadata.len())
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.refuse_unless_writable(Verb::Truncate)?;
        self.file
            .set_len(length)
            .map_err(|cause| self.error(Verb::Truncate, &cause))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.refuse_unless_writable(Verb::Zero)?;
        // Written, not `fallocate`d: an allocated but unwritten block costs its metadata at the first write, on
        // the commit path, which is what zeroing ahead is for.
        let mut at = offset;
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            let (zeros, _) = ZEROS.split_at(wanted);
            self.file
                .write_all_at(zeros, at)
                .map_err(|cause| self.error(Verb::Zero, &cause))?;
            at = at.saturating_add(zeros.len() as u64);
            left = left.saturating_sub(zeros.len() as u64);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.refuse_unless_writable(Verb::Punch)?;
        if length == 0 {
            return Ok(());
        }
        punch(&self.file, offset, length).map_err(|errno| self.error(Verb::Punch, &errno.into()))
    }
}

#[cfg(target_os = "linux")]
fn punch(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    use rustix::fs::FallocateFlags;

    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| rustix::fs::fallocate(file, flags, offset, length)) {
        // The file system has no such call: the space stays taken, which loses nothing.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        answer => answer,
    }
}

/// There is no safe call for it here; the space stays taken, which loses nothing.
#[cfg(not(target_os = "linux"))]
fn punch(_: &File, _: u64, _: u64) -> Result<(), Errno> {
    Ok(())
}

/// The lock of a directory: the open lock file.
#[derive(Debug)]
struct FileSystemLock {
    file: OwnedFd,
}

impl DiskLock for FileSystemLock {}

impl Drop for FileSystemLock {
    fn drop(&mut self) {
        // Closing alone would not do while a child process just forked still holds a copy.
        if let Err(errno) = rustix::fs::flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%errno, "a lock file could not be unlocked; closing it will");
        }
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn open_directory(path: &Path) -> Result<File, DiskError> {
    retry_on_intr(|| rustix::fs::open(path, directory_flags(), Mode::empty()))
        .map(File::from)
        .map_err(|errno| error(Verb::Open, &path.display().to_string(), &errno.into()))
}

/// How many bytes were in memory from `offset` on, and are in `buffer` now.
#[cfg(target_os = "linux")]
fn read_without_waiting(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut buffers = [io::IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT)
}

/// There is no such call.
#[cfg(not(target_os = "linux"))]
fn read_without_waiting(_: &File, _: &mut [u8], _: u64) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

fn sync_directory(directory: &File, name: &str) -> Result<(), DiskError> {
    directory
        .sync_all()
        .map_err(|cause| error(Verb::SyncDirectory, name, &cause))
}

fn error(verb: Verb, file: &str, cause: &io::Error) -> DiskError {
    DiskError {
        verb,
        file: file.to_owned(),
        kind: kind(cause),
    }
}

fn kind(cause: &io::Error) -> DiskErrorKind {
    if cause.kind() == io::ErrorKind::UnexpectedEof {
        return DiskErrorKind::EndOfFile;
    }
    match Errno::from_io_error(cause) {
        Some(Errno::NOENT) => DiskErrorKind::NotFound,
        Some(Errno::EXIST) => DiskErrorKind::Exists,
        Some(Errno::NOTDIR) => DiskErrorKind::NotADirectory,
        Some(Errno::NOSPC | Errno::DQUOT) => DiskErrorKind::Full,
        Some(Errno::ROFS) => DiskErrorKind::ReadOnly,
        Some(Errno::ACCESS | Errno::PERM) => DiskErrorKind::PermissionDenied,
        _ => DiskErrorKind::Other(cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not all of these can be provoked by a test that may run as root on any file system.
    #[test]
    fn the_system_words_are_told_apart() {
        let kinds = [
            (Errno::NOENT, DiskErrorKind::NotFound),
            (Errno::EXIST, DiskErrorKind::Exists),
            (Errno::NOTDIR, DiskErrorKind::NotADirectory),
            (Errno::NOSPC, DiskErrorKind::Full),
            (Errno::DQUOT, DiskErrorKind::Full),
            (Errno::ROFS, DiskErrorKind::ReadOnly),
            (Errno::ACCESS, DiskErrorKind::PermissionDenied),
            (Errno::PERM, DiskErrorKind::PermissionDenied),
        ];
        for (errno, expected) in kinds {
            assert_eq!(kind(&errno.into()), expected);
        }
        assert!(matches!(kind(&Errno::IO.into()), DiskErrorKind::Other(_)));
        assert_eq!(
            kind(&io::ErrorKind::UnexpectedEof.into()),
            DiskErrorKind::EndOfFile
        );
    }
}
