//! Labels of our own workload.

use postern_config::authz::{FieldMatch, NamedTexts};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What our own workload is called by those who deploy it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// One value a name: `false` where there was another already, which stays.
    pub fn add(&mut self, name: String, value: String) -> bool {
        let is_new = !self.0.contains_key(&name);
        if is_new {
            self.0.insert(name, value);
        }
        is_new
    }

    /// A label that is not there fits nothing: it is known that there is none.
    pub fn fit(&self, wanted: &[FieldMatch]) -> bool {
        wanted.iter().all(|label| self.0.get(&label.name).is_some_and(|value| label.matches(value.as_bytes())))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl NamedTexts for Labels {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
