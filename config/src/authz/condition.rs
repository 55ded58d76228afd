//! `when:` of a rule: a condition in CEL, the Common Expression Language.
//!
//! All that can be wrong with one is found here, when the file is read: what it names is known, its patterns are compiled, its
//! size and the work it can ask for have bounds, and a trial with made-up values shows types that do not go together. What is
//! left for a request is to lend it values ([`Facts`]): nothing is made that the condition does not ask for. Pure.

mod check;
mod functions;
mod place;
mod plan;
mod trial;
mod values;
mod variables;

use crate::problem::Place;
use crate::read::{FromNode, Reader, shown};
use crate::yaml::Node;
use cel::common::ast::IdedExpr;
use cel::common::types::CelBool;
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Value};
use plan::Plan;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use values::Pattern;

pub(crate) use functions::environment;
pub use values::{Fact, Facts, NamedTexts};
pub use variables::Variable;

/// Bytes: enough for any rule that a person still reads.
const TEXT_MAX: usize = 2048;

/// A checked condition.
#[derive(Clone)]
pub struct Condition(Arc<Compiled>);

struct Compiled {
    text: String,
    plan: Plan,
    library: Library,
    uses: Vec<Variable>,
    captures: Vec<String>,
}

/// What an evaluation by the library needs of its condition.
struct Library {
    patterns: Vec<Pattern>,
    environment: Arc<Env>,
}

/// Why there is no result. A rule that allows does not fit then, one that denies does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("`{0}` is not known here")]
    Unknown(&'static str),
    #[error("there is no `{0}`")]
    NoSuchKey(String),
    #[error("values have types that do not go together")]
    Types,
    #[error("the result is neither true nor false")]
    NoTruth,
    #[error("it cannot be computed")]
    Failed,
}

impl Condition {
    /// Whether it holds.
    ///
    /// # Errors
    /// What it asks for is not there, or there is no result.
    pub fn holds(&self, facts: &dyn Facts) -> Result<bool, ConditionError> {
        self.0.plan.holds(&self.0.library, facts)
    }

    /// What it asks for, and what it is lent, for people. What is not known is left out.
    pub fn seen(&self, facts: &dyn Facts) -> Vec<(&'static str, String)> {
        let known = self.0.uses.iter().filter_map(|variable| Some((*variable, facts.fact(*variable)?)));
        known.map(|(variable, fact)| (variable.name(), fact.to_string())).collect()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What it may ask for, each once.
    pub fn uses(&self) -> &[Variable] {
        &self.0.uses
    }

    pub fn asks_for(&self, variable: Variable) -> bool {
        self.0.uses.contains(&variable)
    }

    /// Whether it can only be decided when a request has been read.
    pub fn is_about_requests(&self) -> bool {
        self.0.uses.iter().any(|variable| variable.is_of_request())
    }

    /// Whether there is something in the request's head besides method, target and host that it asks for.
    pub fn needs_headers(&self) -> bool {
        self.0.uses.iter().any(|variable| variable.is_of_headers())
    }

    /// Names of captures that it asks for.
    pub(crate) fn captures(&self) -> &[String] {
        &self.0.captures
    }
}

impl PartialEq for Condition {
    /// Everything else follows from the text.
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.text).finish()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Lends a condition what it asks for.
struct Lent<'a> {
    library: &'a Library,
    facts: &'a dyn Facts,
}

impl Lent<'_> {
    fn evaluate<T>(&self, expression: &IdedExpr, read: impl FnOnce(&CowVal<'_, '_>) -> T) -> Result<T, ConditionError> {
        let mut context = Context::with_env(self.library.environment.clone());
        context.set_variable_resolver(self);
        match Value::resolve_val(expression, &context) {
            Ok(value) => Ok(read(&value)),
            Err(error) => Err(ConditionError::of(&error)),
        }
    }
}

impl VariableResolver for Lent<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match check::Reference::parse(name)? {
            check::Reference::Value(variable) => self.facts.fact(variable).map(values::lend),
            check::Reference::IsKnown(variable) => {
                Some(CowVal::owned(CelBool::from(self.facts.fact(variable).is_some())))
            }
            check::Reference::Pattern(index) => {
                self.library.patterns.get(index).map(|pattern| CowVal::Borrowed(pattern as _))
            }
        }
    }
}

impl ConditionError {
    fn of(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::UndeclaredReference(name) => match check::Reference::parse(name) {
                Some(check::Reference::Value(variable)) => Self::Unknown(variable.name()),
                _ => Self::Failed,
            },
            ExecutionError::NoSuchKey(key) => Self::no_such_key(key),
            ExecutionError::NoSuchOverload(_)
            | ExecutionError::UnexpectedType { .. }
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedTargetType { .. }
            | ExecutionError::UnsupportedIndex(..)
            | ExecutionError::UnsupportedKeyType(_)
            | ExecutionError::NotSupportedAsMethod { .. }
            | ExecutionError::ValuesNotComparable(..) => Self::Types,
            _ => Self::Failed,
        }
    }

    fn no_such_key(key: &str) -> Self {
        Self::NoSuchKey(shown(key))
    }
}

/// Something that is wrong with a condition. `at`: bytes from its beginning.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    at: usize,
    what: String,
    hint: String,
}

fn compile(text: &str, environment: Arc<Env>) -> Result<Condition, Vec<Fault>> {
    let found = check::read(text, &environment)?;
    let library = Library { patterns: found.patterns, environment };
    let faults = trial::run(&found.expression, &library, &found.places);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Condition(Arc::new(Compiled {
        text: text.to_owned(),
        plan: Plan::of(&found.expression),
        library,
        uses: found.uses,
        captures: found.captures,
    })))
}

impl FromNode for Condition {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = reader.scalar(node, "a condition such as `request.method == 'GET'`")?.to_owned();
        let environment = reader.environment();
        match compile(&text, environment) {
            Ok(condition) => Some(condition),
            Err(faults) => {
                for fault in faults {
                    let place = place_of(&node.place, &text, fault.at, reader);
                    reader.problem(&place, format!("`when`: {}", fault.what), fault.hint);
                }
                None
            }
        }
    }
}

/// Where in the file it stands.
fn place_of(node: &Place, text: &str, at: usize, reader: &Reader) -> Place {
    let source = reader.sources.iter().find(|(file, _)| *file == node.file);
    source.map_or_else(|| node.clone(), |(_, source)| place::within(source, node, text, at))
}

impl JsonSchema for Condition {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "CEL", "maxLength": TEXT_MAX })
    }
}

#[cfg(test)]
mod tests;
