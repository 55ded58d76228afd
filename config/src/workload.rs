//! `workload:`, what is known of our own workload besides its identity.

use crate::authz::Fields;
use crate::problem::Place;
use crate::read::{Field, Keys, Reader, Section};
use crate::values::FilePath;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Labels: what rules can ask about where they hold. What stands in files and the environment is read by the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    pub labels: Vec<(String, String)>,
    /// Lines `key="value"`, as Kubernetes' downward API writes them.
    pub labels_file: Option<PathBuf>,
    /// A label, and the variable of the environment that has its value.
    pub labels_env: Vec<(String, String)>,
}

impl Workload {
    pub fn has_labels(&self) -> bool {
        *self != Self::default()
    }

    pub(crate) fn effective_json(&self) -> Value {
        let named = |pairs: &[(String, String)]| -> Value {
            pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
        };
        let mut section = Map::new();
        if !self.labels.is_empty() {
            section.insert("labels".to_owned(), named(&self.labels));
        }
        if let Some(file) = &self.labels_file {
            section.insert("labels_file".to_owned(), json!(file.to_string_lossy()));
        }
        if !self.labels_env.is_empty() {
            section.insert("labels_env".to_owned(), named(&self.labels_env));
        }
        Value::Object(section)
    }
}

/// What our own workload is: labels that rules ask for (`labels`, `workload.labels`), such as environment, tenant and purpose.
#[derive(JsonSchema)]
#[schemars(rename = "Workload", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawWorkload {
    /// Labels, as `name: value`.
    #[schemars(extend("x-default" = "none"))]
    labels: Field<Fields>,
    /// A file of lines `name="value"`, as Kubernetes' downward API writes a pod's labels. It is watched; one that cannot be read
    /// is an error.
    #[schemars(extend("x-default" = "none"))]
    labels_file: Field<FilePath>,
    /// Labels whose values are variables of the environment, as `name: VARIABLE`. One that is not set is an error.
    #[schemars(extend("x-default" = "none"))]
    labels_env: Field<Fields>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawWorkload {
    const NAME: &'static str = "`workload`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            labels: keys.optional("labels"),
            labels_file: keys.optional("labels_file"),
            labels_env: keys.optional("labels_env"),
            place: keys.place(),
        }
    }
}

impl RawWorkload {
    pub fn check(self, reader: &mut Reader) -> Workload {
        if !self.labels.is_written() && !self.labels_file.is_written() && !self.labels_env.is_written() {
            reader.problem(&self.place, "`workload` says nothing", "write `labels`, or remove the key");
        }
        let labels = one_each(self.labels, reader);
        let labels_env: Vec<(String, Place, String)> = one_each(self.labels_env, reader);
        for (name, place, variable) in &labels_env {
            if variable.is_empty() || variable.contains(['=', '\0']) {
                let what = format!("`{name}: {variable}` is no variable of the environment");
                reader.problem(place, what, "write its name, such as `DEPLOY_ENV`");
            }
            if labels.iter().any(|(other, ..)| other == name) {
                reader.problem(place, format!("the label `{name}` stands in `labels` as well"), "keep one of the two");
            }
        }
        let without_place =
            |labels: Vec<(String, Place, String)>| labels.into_iter().map(|(name, _, value)| (name, value)).collect();
        Workload {
            labels: without_place(labels),
            labels_file: self.labels_file.into_option().map(|file| file.0),
            labels_env: without_place(labels_env),
        }
    }
}

/// Names with one text each.
fn one_each(fields: Field<Fields>, reader: &mut Reader) -> Vec<(String, Place, String)> {
    let mut labels = Vec::new();
    for (name, place, values) in fields.into_option().unwrap_or_default().0 {
        match values.as_slice() {
            _ if name.is_empty() => reader.problem(&place, "a label has no name", "write such as `environment`"),
            [value] if value.exact().is_some() => labels.push((name, place, value.to_string())),
            _ => {
                let what = format!("the label `{name}` has more than one value");
                reader.problem(&place, what, "write one, without `*`");
            }
        }
    }
    labels
}
