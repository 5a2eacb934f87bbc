//! multipart/form-data (RFC 7578): one file among other fields.
//!
//! multer finds the parts and reads their headers; their data go past it ([`super::feed`]). What it leaves open is settled
//! here: the names ([`super::disposition`]), how much may stand beside the file, and what its errors mean.

use bytes::Bytes;
use futures::future::poll_fn;
use multer::{Field, Multipart};
use std::task::{Context, Poll};

use super::body::{Data, meaning};
use super::disposition::Disposition;
use super::feed::{Feed, HEADER_LIMIT};
use crate::error::{Error, Result};

/// The field that holds the image.
const FILE: &str = "file";

/// Fields beside the file, at most.
const MAX_FIELDS: usize = 64;

/// Bytes in all fields beside the file, at most.
const MAX_FIELDS_SIZE: usize = 1024 * 1024;

/// Bytes read and dropped behind the closing boundary, so that the connection can be used again.
const MAX_EPILOGUE: usize = 64 * 1024;

/// A form, read part by part.
pub(super) struct Form {
    parts: Multipart<'static>,
    feed: Feed,
    reading: Reading,
    /// How many fields beside the file there were, and their bytes.
    fields: usize,
    fields_size: usize,
}

/// Whose data come next.
#[derive(PartialEq, Eq)]
enum Reading {
    /// Nobody's: a boundary, or the form's end.
    Between,
    Field,
    File,
}

/// The part named `file`.
pub(super) struct FilePart {
    /// None where the client gave none, or an empty one.
    pub file_name: Option<String>,
}

impl Form {
    /// `boundary` is the Content-Type's parameter.
    pub(super) fn new(boundary: String, body: Data) -> Self {
        let feed = Feed::new(&boundary, body);
        let parts = Multipart::new(feed.clone(), boundary);
        Form { parts, feed, reading: Reading::Between, fields: 0, fields_size: 0 }
    }

    /// Skips to the file; [`Error::NoFile`] where the form has none.
    pub(super) async fn find_file(&mut self) -> Result<FilePart> {
        while let Some(part) = self.next_part().await? {
            if part.name.as_deref() == Some(FILE) {
                self.reading = Reading::File;
                return Ok(FilePart { file_name: part.file_name });
            }
            self.skip_field().await?;
        }
        Err(Error::NoFile)
    }

    /// The file's next bytes, never none of them.
    pub(super) async fn file_chunk(&mut self) -> Result<Option<Bytes>> {
        if self.reading != Reading::File {
            return Ok(None);
        }
        self.chunk().await
    }

    /// Reads what stands behind the file: no second one, the closing boundary, an epilogue.
    ///
    /// May be dropped and called again.
    pub(super) async fn finish(&mut self) -> Result<()> {
        loop {
            self.skip_field().await?;
            let Some(part) = self.next_part().await? else { break };
            if part.name.as_deref() == Some(FILE) {
                return Err(Error::MalformedForm(format!("more than one file; send one field named '{FILE}'")));
            }
        }
        self.drop_epilogue().await
    }

    /// The next bytes of the part that is being read, never none of them.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.reading == Reading::Between {
            return Ok(None);
        }
        let chunk = poll_fn(|cx| self.feed.poll_data(cx)).await.transpose()?;
        if chunk.is_none() {
            self.reading = Reading::Between;
        }
        Ok(chunk)
    }

    async fn next_part(&mut self) -> Result<Option<Disposition>> {
        self.feed.expect_headers();
        let (feed, parts) = (&self.feed, &mut self.parts);
        let next = poll_fn(|cx| look_then_feed(feed, cx, |cx| parts.poll_next_field(cx))).await;
        let Some(part) = next.map_err(|error| self.meaning(error))? else {
            return Ok(None);
        };
        check_headers(&part)?;
        let disposition = Disposition::of(part.headers());
        self.reading = Reading::Field;
        if disposition.name.as_deref() != Some(FILE) {
            self.fields += 1;
        }
        if self.fields > MAX_FIELDS {
            return Err(Error::MalformedForm(format!("more than {MAX_FIELDS} fields beside the file")));
        }
        Ok(Some(disposition))
    }

    async fn skip_field(&mut self) -> Result<()> {
        while let Some(chunk) = self.chunk().await? {
            self.fields_size += chunk.len();
            if self.fields_size > MAX_FIELDS_SIZE {
                return Err(Error::MalformedForm(format!("more than {MAX_FIELDS_SIZE} bytes beside the file")));
            }
        }
        Ok(())
    }

    /// A body that fails here did not come as it was sent. One that goes on for long is left to the transport.
    async fn drop_epilogue(&mut self) -> Result<()> {
        let mut dropped = 0;
        while dropped < MAX_EPILOGUE {
            match poll_fn(|cx| self.feed.poll_rest(cx)).await {
                Some(chunk) => dropped += chunk?.len(),
                None => break,
            }
        }
        Ok(())
    }

    /// What an error of multer's is to the client. Its own texts can hold whole headers.
    fn meaning(&self, error: multer::Error) -> Error {
        match error {
            multer::Error::StreamReadFailed(source) => meaning(source),
            multer::Error::IncompleteStream if self.feed.ended() => Error::TruncatedBody(None),
            multer::Error::IncompleteStream => Error::MalformedForm("a boundary's line goes on behind it".to_owned()),
            multer::Error::LockFailure => Error::Internal(Box::new(error)),
            _ => Error::MalformedForm("a part's headers are not valid".to_owned()),
        }
    }
}

/// Lets multer look at what it has; only where that is not enough it gets a slice more.
fn look_then_feed<T>(feed: &Feed, cx: &mut Context<'_>, mut look: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    loop {
        match look(cx) {
            Poll::Pending if feed.reopen() => {}
            answer => return answer,
        }
    }
}

/// The feed bounds them together with the boundary's line; this bounds them alone.
fn check_headers(part: &Field<'static>) -> Result<()> {
    // ": " and the line's end.
    let lines = part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    if lines.sum::<usize>() > HEADER_LIMIT {
        return Err(Error::MalformedForm(format!("a part's headers are longer than {HEADER_LIMIT} bytes")));
    }
    Ok(())
}
