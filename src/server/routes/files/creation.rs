//! A request that creates an upload, in the terms that both protocols have in common.

/// A request that creates an upload.
#[derive(Debug, PartialEq, Eq)]
pub struct Creation {
    /// The length of the file in bytes. `None` if the client does not know it yet.
    pub length: Option<u64>,
    /// Whether the body is the whole file.
    pub is_whole: bool,
    pub file: DeclaredFile,
    /// `Upload-Metadata` of tus, as the client has sent it.
    pub tus_metadata: Option<String>,
}

/// What a client says about its file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeclaredFile {
    pub name: Option<String>,
    pub content_type: Option<String>,
}
