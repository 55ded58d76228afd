//! What an authorizer changes of a request that it allows, and of its answer.

use super::answer::AnswerFault;
use crate::http::forward::path_of;
use crate::http::headers::{folds_to, is_for_connection};
use crate::http::identity_headers::is_reserved;
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    /// Of the request.
    pub headers: Vec<Change>,
    /// Of the request.
    pub remove: Vec<HeaderName>,
    /// Headers of the application's answer.
    pub response: Vec<Change>,
    pub query_set: Vec<(String, String)>,
    pub query_remove: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Append,
    AppendIfExists,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

impl How {
    /// `HeaderAppendAction`.
    pub(super) fn of(action: i32) -> Self {
        match action {
            1 => Self::AddIfAbsent,
            2 => Self::Overwrite,
            3 => Self::OverwriteIfExists,
            _ => Self::Append,
        }
    }
}

impl Change {
    pub fn apply(&self, headers: &mut HeaderMap) {
        let (name, value) = (self.name.clone(), self.value.clone());
        match (self.how, headers.contains_key(&name)) {
            (How::Append, _) | (How::AppendIfExists, true) => drop(headers.append(name, value)),
            (How::Overwrite, _) | (How::OverwriteIfExists, true) | (How::AddIfAbsent, false) => {
                drop(headers.insert(name, value));
            }
            (How::AppendIfExists | How::OverwriteIfExists, false) | (How::AddIfAbsent, true) => {}
        }
    }
}

impl Changes {
    /// Changes a request. In Envoy's order: set, then remove. `claims`: headers in which a verified token's claims are told, and
    /// which are nobody else's. How much may be added is bounded where the answer is read.
    ///
    /// # Errors
    /// The request would be none any more; it may be half changed then.
    pub fn apply(&self, head: &mut Parts, claims: &[HeaderName]) -> Result<(), AnswerFault> {
        for name in self.headers.iter().map(|change| &change.name).chain(&self.remove) {
            if claims.iter().any(|claim| folds_to(name.as_str(), claim.as_str())) {
                return Err(AnswerFault::NotSettable(name.as_str().to_owned()));
            }
        }
        for change in &self.headers {
            change.apply(&mut head.headers);
        }
        for name in &self.remove {
            head.headers.remove(name);
        }
        if self.query_set.is_empty() && self.query_remove.is_empty() {
            return Ok(());
        }
        let path = self.path_with_query(path_of(&head.uri).as_str()).ok_or(AnswerFault::Query)?;
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.path_and_query = Some(path);
        head.uri = Uri::from_parts(parts).map_err(|_| AnswerFault::Query)?;
        Ok(())
    }

    /// Keys are compared as they are written; what is not named stays byte by byte, and what is set has its old place.
    fn path_with_query(&self, target: &str) -> Option<PathAndQuery> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut to_set: Vec<_> = self.query_set.iter().filter(|(name, _)| !self.query_remove.contains(name)).collect();
        let mut pairs: Vec<Cow<'_, str>> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let key = pair.split('=').next().unwrap_or_default();
            if let Some(index) = to_set.iter().position(|(name, _)| name == key) {
                pairs.push(Cow::Owned(parameter(to_set.remove(index))?));
            } else if !self.query_set.iter().any(|(name, _)| name == key)
                && !self.query_remove.iter().any(|it| it == key)
            {
                pairs.push(Cow::Borrowed(pair));
            }
        }
        for added in to_set {
            pairs.push(Cow::Owned(parameter(added)?));
        }
        let target = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
        PathAndQuery::try_from(target).ok()
    }
}

/// `None`: it would be more than one parameter, or none.
fn parameter((name, value): &(String, String)) -> Option<String> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"&#".contains(&byte));
    let is_one = !name.is_empty() && !name.contains('=') && is_plain(name) && is_plain(value);
    is_one.then(|| format!("{name}={value}"))
}

/// None that frames a message, is for one connection, routes, or says who the caller is: in whatever spelling, for behind us
/// some read `x_spiffe_id` for `x-spiffe-id` (THREATS HD-10).
pub fn is_settable(name: &HeaderName) -> bool {
    let text = name.as_str();
    let folds_to_one = [HOST, CONTENT_LENGTH, EXPECT].iter().any(|other| folds_to(text, other.as_str()));
    !folds_to_one && !is_for_connection(text) && !is_reserved(text)
}
