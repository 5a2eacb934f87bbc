//! The random credentials that are stored in `DATA_DIR`.

use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use uuid::Uuid;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keys {
    pub(super) access_key: String,
    pub(super) secret_key: String,
}

impl Keys {
    fn random() -> Keys {
        let random = || Uuid::new_v4().simple().to_string();
        Keys { access_key: random()[..20].to_uppercase(), secret_key: random() + &random() }
    }

    /// Loads the credentials of the previous start, so that presigned URLs stay valid after a restart. Creates new ones
    /// if there are none.
    pub(super) fn load(data_dir: &Path) -> io::Result<Keys> {
        let path = data_dir.join("credentials.json");
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Keys::random();
                save(&keys, &path)?;
                Ok(keys)
            }
            Err(error) => Err(error),
        }
    }
}

/// Saves the credentials by a rename, so that a killed process leaves no incomplete file that the next start would fail
/// on.
fn save(keys: &Keys, path: &Path) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&partial)?.write_all(&serde_json::to_vec_pretty(keys)?)?;
    fs::rename(partial, path)
}
