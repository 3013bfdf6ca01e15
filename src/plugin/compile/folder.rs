//! The private folder of machine code.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A folder that only this user can look into. A temporary one goes when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

/// A folder within it for one compilation. It goes when it is dropped.
#[derive(Debug)]
pub(super) struct Desk(PathBuf);

impl Folder {
    pub(super) fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let (path, is_temporary) = match path {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("tidegate-plugins-{}", random())), true),
        };
        DirBuilder::new().recursive(!is_temporary).mode(0o700).create(&path)?;
        let there = std::fs::symlink_metadata(&path)?;
        let mine = there.uid() == rustix::process::geteuid().as_raw();
        if !there.is_dir() || !mine || there.permissions().mode() & 0o022 != 0 {
            let what =
                format!("{} must be a folder of this user that nobody else can write to", path.display());
            return Err(std::io::Error::other(what));
        }
        Ok(Self { path, is_temporary })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file whole or not at all.
    pub(super) async fn keep(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
        let half = self.path(&format!("half-{}", random()));
        let written = match tokio::fs::write(&half, parts.concat()).await {
            Ok(()) => tokio::fs::rename(&half, path).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            // It may not even be there.
            let _ = tokio::fs::remove_file(&half).await;
        }
        written
    }

    pub(super) fn desk(&self) -> std::io::Result<Desk> {
        let path = self.path(&format!("desk-{}", random()));
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
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}
