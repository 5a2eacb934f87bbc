//! Remembers the SHA-256 of images for which the store has none.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::store::ImageKey;

/// The SHA-256 of the images that were read last.
#[derive(Clone, Default)]
pub(super) struct Digests(Arc<Mutex<VecDeque<Digest>>>);

struct Digest {
    key: ImageKey,
    etag: String,
    sha256: [u8; 32],
}

impl Digests {
    const MAX: usize = 256;

    pub(super) fn get(&self, key: &ImageKey, etag: &str) -> Option<[u8; 32]> {
        let known = self.0.lock();
        known.iter().find(|known| known.key == *key && known.etag == etag).map(|known| known.sha256)
    }

    pub(super) fn add(&self, key: &ImageKey, etag: &str, sha256: [u8; 32]) {
        let mut known = self.0.lock();
        known.truncate(Self::MAX - 1);
        known.push_front(Digest { key: key.clone(), etag: etag.to_owned(), sha256 });
    }
}
