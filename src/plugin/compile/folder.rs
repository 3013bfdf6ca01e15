//! The private folder of machine code.
//!
//! *Invariants*: files of machine code together have no more bytes than the folder may have. One is there whole or
//! not at all. What a process left behind that was killed is removed by the next one that has the folder for itself.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The extension of files of machine code.
pub(super) const CODE: &str = "code";
/// What the names of desks begin with.
const DESK: &str = "desk-";

/// A folder that only this user can look into. A temporary one goes when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Bytes of machine code that it may have.
    bytes: u64,
    is_temporary: bool,
    /// The folder itself, locked: shared by all processes that use it.
    _lock: File,
}

/// A folder within it for what is being made. It goes when it is dropped.
#[derive(Debug)]
pub(super) struct Desk(PathBuf);

impl Folder {
    /// Opens a folder that may have so many bytes of machine code, or makes one that is temporary.
    pub(super) fn open(path: Option<&Path>, bytes: u64) -> io::Result<Self> {
        let (path, is_temporary) = match path {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("tidegate-plugins-{}", random())), true),
        };
        DirBuilder::new().recursive(!is_temporary).mode(0o700).create(&path)?;
        let there = fs::symlink_metadata(&path)?;
        let mine = there.uid() == rustix::process::geteuid().as_raw();
        if !there.is_dir() || !mine || there.permissions().mode() & 0o022 != 0 {
            let what =
                format!("{} must be a folder of this user that nobody else can write to", path.display());
            return Err(io::Error::other(what));
        }
        let lock = File::open(&path)?;
        // Desks of others are in use for as long as they have the folder open.
        if lock.try_lock().is_ok() {
            remove_desks(&path)?;
            make_room(&path, bytes)?;
        }
        lock.lock_shared()?;
        Ok(Self { path, bytes, is_temporary, _lock: lock })
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Reads a file of machine code, which is thereby the one that was used last.
    pub(super) async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let path = self.path(file);
        blocking(move || {
            let mut file = File::open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            file.set_modified(SystemTime::now())?;
            Ok(bytes)
        })
        .await
    }

    /// Writes a file of machine code whole or not at all, in place of what was not used for the longest time.
    pub(super) async fn keep(&self, file: &str, content: Vec<u8>) -> io::Result<()> {
        let left = self.bytes.checked_sub(content.len() as u64);
        let left = left.ok_or_else(|| {
            let what =
                format!("it has {} bytes, and plugins.folder_bytes allows {}", content.len(), self.bytes);
            io::Error::other(what)
        })?;
        let (folder, path, desk) = (self.path.clone(), self.path(file), self.desk()?);
        blocking(move || {
            make_room(&folder, left)?;
            let whole = desk.file("whole");
            fs::write(&whole, content)?;
            fs::rename(whole, path)
        })
        .await
    }

    pub(super) fn desk(&self) -> io::Result<Desk> {
        let path = self.path(&format!("{DESK}{}", random()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Desk(path))
    }
}

impl Desk {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed now the system clears up.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remove_desks(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(DESK.as_bytes()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes files of machine code until the rest has no more than so many bytes, those first that were not used for
/// the longest time.
fn make_room(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Another process may have removed it since.
        if let (true, Ok(about)) = (path.extension().is_some_and(|is| is == CODE), fs::metadata(&path)) {
            files.push((about.modified()?, about.len(), path));
        }
    }
    files.sort();
    let mut left: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in files {
        if left <= bytes {
            break;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => left -= length,
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A folder of ten bytes within a private one.
    fn open(path: &Path) -> Folder {
        Folder::open(Some(&path.join("plugins")), 10).unwrap()
    }

    fn names(folder: &Folder) -> Vec<String> {
        let names = fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().file_name().into_string());
        let mut names: Vec<_> = names.map(Result::unwrap).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_was_not_used_for_the_longest_time_makes_room() {
        let parent = tempfile::tempdir().unwrap();
        let folder = open(parent.path());
        for (hours, name) in [(3, "a.code"), (2, "b.code"), (1, "c.code")] {
            folder.keep(name, vec![1; 3]).await.unwrap();
            let then = SystemTime::now() - Duration::from_secs(hours * 3_600);
            File::open(folder.path(name)).unwrap().set_modified(then).unwrap();
        }
        fs::write(folder.path("key"), [0; 100]).unwrap();
        assert_eq!(folder.read("a.code").await.unwrap(), [1; 3]);
        folder.keep("d.code", vec![1; 4]).await.unwrap();
        assert_eq!(names(&folder), ["a.code", "c.code", "d.code", "key"]);
        let refused = folder.keep("e.code", vec![1; 11]).await.unwrap_err();
        assert!(refused.to_string().contains("folder_bytes"), "{refused}");
        assert_eq!(names(&folder), ["a.code", "c.code", "d.code", "key"]);
        drop(folder);
        let smaller = Folder::open(Some(&parent.path().join("plugins")), 5).unwrap();
        assert_eq!(names(&smaller), ["d.code", "key"], "one that may have less now");
    }

    #[test]
    fn what_was_left_behind_goes_when_nobody_else_has_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let first = open(parent.path());
        let desk = first.desk().unwrap();
        fs::write(desk.file("in"), "half").unwrap();
        let second = open(parent.path());
        assert!(desk.file("in").exists(), "it is in use");
        // As if the process had been killed.
        std::mem::forget(desk);
        drop((first, second));
        // A process that another test is just starting may have the lock until it runs its own program.
        let is_empty = || names(&open(parent.path())).is_empty();
        assert!(std::iter::repeat_with(is_empty).take(10_000).any(|is_empty| is_empty));
    }
}
