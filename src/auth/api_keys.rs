//! API keys: read once at startup, stored as hashes, and compared in constant time.

use hex::FromHex;
use sha2::{Digest, Sha256};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The setting that lists keys in plain text, and the setting that names a file of hashed keys.
const BARE: &str = "API_KEYS";
const FILE: &str = "API_KEYS_FILE";
const LONGEST_NAME: usize = 64;

/// Minimum number of characters of an API key that may sign grants. Anyone who has a grant can guess its key offline.
pub const MIN_GRANTING_KEY: usize = 16;

/// A secret setting. `Debug` does not print it.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl Secret {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A permission of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Scope {
    Upload,
    Delete,
    Read,
}

impl Scope {
    pub const ALL: [Scope; 3] = [Scope::Upload, Scope::Delete, Scope::Read];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// SHA-256 of an API key.
pub type Hash = [u8; 32];

/// An API key: its name, its hash and its scopes.
#[derive(Clone)]
pub struct Key {
    name: String,
    hash: Hash,
    scopes: Vec<Scope>,
    /// Whether the key has fewer than [`MIN_GRANTING_KEY`] characters. Always false if only the hash is known.
    short: bool,
}

impl Key {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Returns whether the key is known to be too short to sign grants.
    pub fn is_short(&self) -> bool {
        self.short
    }

    fn fingerprint(&self) -> String {
        hex::encode(&hash(&self.hash)[..8])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// All API keys. If there are none, requests need no key.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<[Key]>);

impl Keys {
    /// Reads the API keys. `bare` contains keys with every scope, comma-separated. `file` contains one line per key:
    /// `name sha256-hex scopes`.
    ///
    /// # Errors
    /// Returns one line per problem. No line contains a key, or text that may be a key in the wrong place.
    pub fn read(bare: Option<&Secret>, file: Option<&Path>) -> Result<Keys, Vec<String>> {
        let mut reader = Reader::default();
        if let Some(Secret(text)) = bare {
            reader.bare(text);
        }
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => reader.file(&text),
                Err(error) => reader.problems.push(format!("{FILE}: {} cannot be read ({error})", path.display())),
            }
        }
        if reader.problems.is_empty() { Ok(Keys(reader.keys.into())) } else { Err(reader.problems) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// Returns the key if there is exactly one.
    pub fn only(&self) -> Option<&Key> {
        if let [key] = &*self.0 { Some(key) } else { None }
    }

    pub fn named(&self, name: &str) -> Option<&Key> {
        self.iter().find(|key| key.name == name)
    }

    /// Returns a value that identifies the key with this name without revealing it: the start of the hash of its hash.
    pub(super) fn fingerprint(&self, name: &str) -> Option<String> {
        self.named(name).map(Key::fingerprint)
    }

    pub(super) fn by_fingerprint(&self, fingerprint: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.fingerprint() == fingerprint)
    }

    /// Returns the hashes of all keys, in an order that does not depend on the configuration.
    pub(super) fn sorted_hashes(&self) -> Vec<Hash> {
        let mut hashes: Vec<Hash> = self.0.iter().map(|key| key.hash).collect();
        hashes.sort_unstable();
        hashes
    }

    /// Returns the key that a client sent. Takes the same time for valid and invalid keys.
    pub fn find(&self, secret: &[u8]) -> Option<&Key> {
        let hash = hash(secret);
        self.0.iter().fold(None, |found, key| if bool::from(key.hash.ct_eq(&hash)) { Some(key) } else { found })
    }
}

pub(super) fn hash(secret: &[u8]) -> Hash {
    Sha256::digest(secret).into()
}

/// Returns whether other users of this machine may read the file. The hashes in it can sign grants.
pub fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o044 != 0)
}

#[derive(Default)]
struct Reader {
    keys: Vec<Key>,
    problems: Vec<String>,
}

impl Reader {
    fn bare(&mut self, text: &str) {
        let secrets = text.split(',').map(str::trim).filter(|secret| !secret.is_empty());
        for (number, secret) in (1..).zip(secrets) {
            if secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                let scopes = Scope::ALL.to_vec();
                let (name, short) = (format!("key-{number}"), secret.len() < MIN_GRANTING_KEY);
                self.add(BARE, Key { name, hash: hash(secret.as_bytes()), scopes, short });
            } else {
                self.problems.push(format!("{BARE}: key {number} has a character that is not allowed in headers"));
            }
        }
        self.expect_more(0, BARE);
    }

    fn file(&mut self, text: &str) {
        let before = self.keys.len() + self.problems.len();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{FILE}: line {number}");
            match line_of(line) {
                Ok(key) => self.add(&place, key),
                Err(problem) => self.problems.push(format!("{place}: {problem}")),
            }
        }
        self.expect_more(before, FILE);
    }

    /// Rejects an empty list, because it would disable the protection that the operator intended.
    fn expect_more(&mut self, before: usize, setting: &str) {
        if self.keys.len() + self.problems.len() == before {
            self.problems.push(format!("{setting}: contains no key"));
        }
    }

    fn add(&mut self, place: &str, key: Key) {
        if let Some(other) = self.keys.iter().find(|other| other.name == key.name) {
            self.problems.push(format!("{place}: there is another key with the name {}", other.name));
        } else if let Some(other) = self.keys.iter().find(|other| other.hash == key.hash) {
            self.problems.push(format!("{place}: is the same key as {}", other.name));
        } else {
            self.keys.push(key);
        }
    }
}

/// The error quotes nothing of the line, because the line may contain a key by mistake.
fn line_of(line: &str) -> Result<Key, &'static str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, hex, scopes] = fields[..] else {
        return Err("expected a name, the key's SHA-256 in hexadecimal, and scopes (comma-separated, no spaces)");
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > LONGEST_NAME || !name.bytes().all(plain) {
        return Err("the name must have at most 64 characters, which may be letters, digits, -, _ and .");
    }
    let bad_hash = |_| "the SHA-256 must be 64 hexadecimal digits (printf %s \"$KEY\" | sha256sum)";
    let hash = Hash::from_hex(hex).map_err(bad_hash)?;
    let scopes: Result<Vec<Scope>, _> = scopes.split(',').map(str::parse).collect();
    let scopes = scopes.map_err(|_| "the scopes must be upload, delete or read, comma-separated")?;
    Ok(Key { name: name.to_owned(), hash, scopes, short: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(bare: &str, file: &str) -> Result<Keys, Vec<String>> {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(file.as_bytes()).unwrap();
        let bare = (!bare.is_empty()).then(|| Secret::from(bare.to_owned()));
        Keys::read(bare.as_ref(), (!file.is_empty()).then(|| named.path()))
    }

    #[test]
    fn keys_are_found_by_hash_with_their_scopes() {
        let keys = read("first, second", &format!("# ours\n\nci {ABC} upload,read\r\n")).unwrap();
        assert_eq!(keys.find(b"second").unwrap().name(), "key-2");
        assert!(Scope::ALL.into_iter().all(|scope| keys.find(b"first").unwrap().may(scope)));
        let ci = keys.find(b"abc").unwrap();
        assert_eq!((ci.name(), ci.scopes.as_slice()), ("ci", [Scope::Upload, Scope::Read].as_slice()));
        for wrong in ["", "firs", "first,", ABC, "ci"] {
            assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(read("", "").unwrap().is_empty());
    }

    #[test]
    fn all_invalid_lines_are_reported_without_quoting_them() {
        let file =
            format!("a secret-key upload\nb {ABC} write\nc\nd/e {ABC} read\nf {ABC} read\nf {ABC} read\ng {ABC} read");
        let problems = read("gr\u{fc}n", &file).unwrap_err();
        let starts = problems.iter().map(|problem| problem.split(": ").take(2).collect::<Vec<_>>().join(" "));
        let lines = [1, 2, 3, 4, 6, 7].map(|line| format!("API_KEYS_FILE line {line}"));
        assert_eq!(starts.skip(1).collect::<Vec<_>>(), lines, "{problems:#?}");
        assert!(problems[0].starts_with("API_KEYS: key 1 "));
        let report = problems.join("\n");
        let leaks = ["secret-key", ABC, "gr\u{fc}n"].into_iter().any(|secret| report.contains(secret));
        assert!(!leaks, "{report}");
    }

    #[test]
    fn empty_key_list_is_an_error() {
        assert_eq!(read(" , ", "").unwrap_err(), ["API_KEYS: contains no key"]);
        let nothing = Secret::from(String::new());
        assert_eq!(Keys::read(Some(&nothing), None).unwrap_err(), ["API_KEYS: contains no key"]);
        assert_eq!(read("", "# none yet\n").unwrap_err(), ["API_KEYS_FILE: contains no key"]);
        let missing = Keys::read(None, Some(Path::new("there/is/none"))).unwrap_err();
        assert!(missing[0].starts_with("API_KEYS_FILE: there/is/none cannot be read"), "{missing:?}");
    }

    #[test]
    fn short_plain_text_keys_are_marked() {
        let keys = read("fifteen-letters,sixteen--letters", &format!("ci {ABC} upload")).unwrap();
        let short: Vec<&str> = keys.iter().filter(|key| key.is_short()).map(Key::name).collect();
        assert_eq!(short, ["key-1"], "only the hash of the key in the file is known");
    }

    #[test]
    fn files_readable_by_others_are_detected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, others) in [(0o600, false), (0o700, false), (0o640, true), (0o604, true), (0o611, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_others(file.path()), others, "{mode:o}");
        }
        assert!(!is_readable_by_others(Path::new("there/is/none")));
    }

    #[test]
    fn debug_prints_no_key_and_no_hash() {
        let keys = read("first", "").unwrap();
        let shown = format!("{keys:?} {:?}", Secret::from("first".to_owned()));
        assert_eq!(shown, "Keys([Key { name: \"key-1\", scopes: [Upload, Delete, Read], .. }]) (hidden)");
    }
}
