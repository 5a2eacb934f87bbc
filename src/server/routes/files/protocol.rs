//! The two protocols of `/files`.

use http::HeaderMap;

use super::creation::Creation;
use super::tus::TUS_RESUMABLE;
use super::{ietf, tus};
use crate::error::Result;
use crate::resumable::Append;

/// The protocol of a request. Both use the same resources, so that an upload can be continued with either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// tus 1.0: every request has the header `Tus-Resumable`.
    Tus,
    /// The IETF's resumable uploads.
    Ietf,
}

impl Protocol {
    pub fn of(headers: &HeaderMap) -> Protocol {
        if headers.contains_key(TUS_RESUMABLE) { Protocol::Tus } else { Protocol::Ietf }
    }

    /// Reads a request that creates an upload.
    ///
    /// # Errors
    /// Returns an error if the headers are invalid.
    pub fn creation(self, headers: &HeaderMap) -> Result<Creation> {
        match self {
            Protocol::Tus => tus::creation(headers),
            Protocol::Ietf => ietf::creation(headers),
        }
    }

    /// Reads a request that appends bytes to an upload.
    ///
    /// # Errors
    /// Returns an error if the headers are invalid.
    pub fn append(self, headers: &HeaderMap) -> Result<Append> {
        match self {
            Protocol::Tus => tus::append(headers),
            Protocol::Ietf => ietf::append(headers),
        }
    }

    /// Checks a request for the state of an upload.
    ///
    /// # Errors
    /// Returns an error if the headers are invalid.
    pub fn check_retrieval(self, headers: &HeaderMap) -> Result<()> {
        match self {
            Protocol::Tus => Ok(()),
            Protocol::Ietf => ietf::check_retrieval(headers),
        }
    }
}
