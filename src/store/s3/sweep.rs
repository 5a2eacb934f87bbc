//! Finds and removes unfinished uploads and unverified objects that a killed process or an abandoned plan left in the
//! bucket.

use aws_sdk_s3::types::{MultipartUpload, Object};
use std::time::SystemTime;
use uuid::Uuid;

use super::S3Store;
use super::errors::classify;
use crate::store::name::{is_kept, kept_prefix};
use crate::store::{INCOMING, ImageKey, Kept, Leftover, Result, StoreError};

impl S3Store {
    pub(super) async fn list_unfinished_uploads(&self) -> Result<Vec<Leftover>> {
        let found = self.multipart_uploads(&self.prefix).await?;
        Ok(found.iter().filter_map(|upload| self.unfinished_upload(upload)).collect())
    }

    /// Returns the unfinished uploads of all keys that begin with `prefix` (ListMultipartUploads, all pages).
    pub(super) async fn multipart_uploads(&self, prefix: &str) -> Result<Vec<MultipartUpload>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let call = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
            let call = call.set_key_marker(key_marker).set_upload_id_marker(id_marker);
            let page = call.send().await.map_err(|error| classify("ListMultipartUploads", error))?;
            found.extend(page.uploads.unwrap_or_default());
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || key_marker.is_none() {
                return Ok(found);
            }
        }
    }

    pub(super) async fn list_unverified_objects(&self) -> Result<Vec<Leftover>> {
        let found = self.objects(&format!("{}{INCOMING}", self.prefix)).await?;
        Ok(found.iter().filter_map(|object| self.unverified_object(object)).collect())
    }

    pub(super) async fn list_images_of(&self, id: Uuid) -> Result<Vec<ImageKey>> {
        let found = self.objects(&format!("{}{id}.", self.prefix)).await?;
        let names = found.iter().filter_map(|object| object.key()?.strip_prefix(&self.prefix));
        Ok(names.filter_map(ImageKey::parse).collect())
    }

    pub(super) async fn list_kept_of(&self, key: &ImageKey, id: Uuid) -> Result<Vec<Kept>> {
        let prefix = kept_prefix(&self.prefix, key, id);
        let found = self.objects(&prefix).await?;
        Ok(found.iter().filter_map(|object| Kept::parse(object.key()?.strip_prefix(&prefix)?)).collect())
    }

    /// The objects whose keys begin with `prefix` (ListObjectsV2, all pages).
    async fn objects(&self, prefix: &str) -> Result<Vec<Object>> {
        let call = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(page.map_err(|error| classify("ListObjectsV2", error))?.contents.unwrap_or_default());
        }
        Ok(found)
    }

    pub(super) async fn drop_leftover(&self, leftover: &Leftover) -> Result<()> {
        match &leftover.upload_id {
            Some(id) => self.abort(&leftover.object_key, id).await,
            None => self.delete_key(&leftover.object_key).await,
        }
    }

    fn unfinished_upload(&self, upload: &MultipartUpload) -> Option<Leftover> {
        Some(Leftover {
            object_key: upload.key().filter(|key| self.is_ours(key))?.to_owned(),
            upload_id: Some(upload.upload_id()?.to_owned()),
            is_empty: false,
            since: SystemTime::try_from(*upload.initiated()?).ok()?,
        })
    }

    fn unverified_object(&self, object: &Object) -> Option<Leftover> {
        Some(Leftover {
            object_key: object.key().filter(|key| self.is_ours(key))?.to_owned(),
            upload_id: None,
            is_empty: object.size() == Some(0),
            since: SystemTime::try_from(*object.last_modified()?).ok()?,
        })
    }

    /// Whether a key has the form of this service's keys. Others are not swept, because the bucket may be shared and
    /// the prefix may be empty.
    fn is_ours(&self, object_key: &str) -> bool {
        let name = object_key.strip_prefix(&self.prefix);
        let incoming = name.and_then(|name| name.strip_prefix(INCOMING));
        incoming.or(name).is_some_and(|name| ImageKey::parse(name).is_some()) || incoming.is_some_and(is_kept)
    }

    pub(super) async fn abort(&self, object_key: &str, upload_id: &str) -> Result<()> {
        let call = self.client.abort_multipart_upload().bucket(&self.bucket).key(object_key).upload_id(upload_id);
        match call.send().await.map_err(|error| classify("AbortMultipartUpload", error)) {
            Ok(_) | Err(StoreError::NoSuchUpload | StoreError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete_key(&self, object_key: &str) -> Result<()> {
        let call = self.client.delete_object().bucket(&self.bucket).key(object_key);
        match call.send().await.map_err(|error| classify("DeleteObject", error)) {
            Ok(_) | Err(StoreError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
