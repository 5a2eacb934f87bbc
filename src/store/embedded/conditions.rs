//! If-Match and the other conditional headers, as S3 interprets them (RFC 9110, section 13).

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::file::Meta;

/// The conditions of a write or a delete on the existing object.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteConditions {
    if_match: Option<ETagCondition>,
    only_new: bool,
}

impl WriteConditions {
    /// Creates the conditions of a request.
    ///
    /// # Errors
    /// Returns `NotImplemented` for an If-None-Match other than `*`, as on AWS.
    pub(super) fn new(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> S3Result<Self> {
        if if_none_match.as_ref().is_some_and(|condition| !condition.is_any()) {
            return Err(s3_error!(NotImplemented, "If-None-Match of a write must be *"));
        }
        Ok(WriteConditions { if_match, only_new: if_none_match.is_some() })
    }

    /// Checks the conditions on the existing object, if there is one.
    ///
    /// # Errors
    /// Returns `PreconditionFailed`, or `NoSuchKey` if there is an If-Match but no object.
    pub(super) fn check(&self, existing: Option<&Meta>) -> S3Result<()> {
        if self.only_new && existing.is_some() {
            return Err(s3_error!(PreconditionFailed, "The object already exists"));
        }
        let Some(condition) = &self.if_match else { return Ok(()) };
        let existing = existing.ok_or_else(|| s3_error!(NoSuchKey))?;
        if matches(condition, existing) { Ok(()) } else { Err(s3_error!(PreconditionFailed)) }
    }
}

/// The conditions of a read.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Checks the conditions on an object. A condition on the ETag takes precedence over one on the date.
    ///
    /// # Errors
    /// Returns `PreconditionFailed` or `NotModified`.
    pub(super) fn check(&self, object: &Meta) -> S3Result<()> {
        let changed = Timestamp::from(object.created());
        let holds = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => matches(condition, object),
            (None, Some(date)) => changed <= *date,
            (None, None) => true,
        };
        if !holds {
            return Err(s3_error!(PreconditionFailed));
        }
        let not_modified = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, object),
            (None, Some(date)) => changed <= *date,
            (None, None) => false,
        };
        if not_modified { Err(s3_error!(NotModified)) } else { Ok(()) }
    }
}

/// Whether the object's ETag matches `condition`.
pub(super) fn matches(condition: &ETagCondition, object: &Meta) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(ETag::Strong(etag) | ETag::Weak(etag)) => *etag == object.etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;
    use std::time::Duration;

    fn etag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.to_owned())))
    }

    fn object() -> Meta {
        Meta { etag: "e".to_owned(), ..Meta::new("k") }
    }

    fn code(checked: S3Result<()>) -> Option<S3ErrorCode> {
        checked.err().map(|error| error.code().clone())
    }

    #[test]
    fn write_conditions_are_checked() {
        let check = |if_match, if_none_match, existing: Option<&Meta>| {
            code(WriteConditions::new(if_match, if_none_match).and_then(|conditions| conditions.check(existing)))
        };
        let object = Some(object());
        let any = || Some(ETagCondition::Any);
        assert_eq!(check(None, None, object.as_ref()), None);
        assert_eq!(check(None, any(), None), None);
        assert_eq!(check(None, any(), object.as_ref()), Some(S3ErrorCode::PreconditionFailed));
        assert_eq!(check(None, etag("e"), None), Some(S3ErrorCode::NotImplemented));
        assert_eq!(check(etag("e"), None, object.as_ref()), None);
        assert_eq!(check(etag("other"), None, object.as_ref()), Some(S3ErrorCode::PreconditionFailed));
        assert_eq!(check(etag("e"), None, None), Some(S3ErrorCode::NoSuchKey));
        assert_eq!(check(any(), None, None), Some(S3ErrorCode::NoSuchKey));
    }

    #[test]
    fn read_conditions_prefer_the_etag_to_the_date() {
        let object = object();
        let check = |conditions: ReadConditions| code(conditions.check(&object));
        let now = || Some(Timestamp::from(object.created()));
        let before = || Some(Timestamp::from(object.created() - Duration::from_secs(1)));
        let none = ReadConditions::default;
        assert_eq!(check(none()), None);
        assert_eq!(check(ReadConditions { if_match: etag("e"), if_unmodified_since: before(), ..none() }), None);
        let failed = Some(S3ErrorCode::PreconditionFailed);
        assert_eq!(check(ReadConditions { if_match: etag("other"), ..none() }), failed);
        assert_eq!(check(ReadConditions { if_unmodified_since: before(), ..none() }), failed);
        assert_eq!(check(ReadConditions { if_unmodified_since: now(), ..none() }), None);
        let not_modified = Some(S3ErrorCode::NotModified);
        assert_eq!(check(ReadConditions { if_none_match: etag("e"), ..none() }), not_modified);
        assert_eq!(check(ReadConditions { if_modified_since: now(), ..none() }), not_modified);
        assert_eq!(check(ReadConditions { if_modified_since: before(), ..none() }), None);
        assert_eq!(check(ReadConditions { if_none_match: etag("other"), if_modified_since: now(), ..none() }), None);
    }
}
