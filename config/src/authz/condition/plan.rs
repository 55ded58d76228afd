//! How a checked condition is decided: what compares texts, as nearly all do, at once; the rest by the library.
//!
//! The library evaluates a tree of boxed values, and looks up by name what a condition calls, which takes four times as long;
//! and rules are asked for every request. What is decided here means what the library would make of it, errors included: a
//! property holds the one against the other.

use super::check::Reference;
use super::variables::Kind;
use super::{ConditionError, Fact, Facts, Lent, Library, Variable};
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelBool;
use std::borrow::Cow;

pub(super) enum Plan {
    Not(Box<Plan>),
    And(Box<[Plan; 2]>),
    Or(Box<[Plan; 2]>),
    Known(Variable),
    Truth(Variable),
    Compare(Comparison, Text, Text),
    /// A text that is one of these.
    Among(Text, Box<[Box<str>]>),
    /// Whatever else.
    Rest(IdedExpr),
}

#[derive(Clone, Copy)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    StartsWith,
    EndsWith,
    Contains,
}

pub(super) enum Text {
    Written(Box<str>),
    Of(Variable),
    /// Of a variable that has texts by name.
    Field(Variable, Box<str>),
}

impl Plan {
    pub(super) fn of(node: &IdedExpr) -> Self {
        Self::read(node).unwrap_or_else(|| Self::Rest(node.clone()))
    }

    fn read(node: &IdedExpr) -> Option<Self> {
        match &node.expr {
            Expr::Ident(name) => match Reference::parse(name)? {
                Reference::IsKnown(variable) => Some(Self::Known(variable)),
                Reference::Value(variable) => (variable.kind() == Kind::Truth).then_some(Self::Truth(variable)),
                Reference::Pattern(_) => None,
            },
            Expr::Call(call) => Self::call(call),
            _ => None,
        }
    }

    fn call(call: &CallExpr) -> Option<Self> {
        let function = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [one]) if function == operators::LOGICAL_NOT => Some(Self::Not(Box::new(Self::read(one)?))),
            (None, sides @ [one, other]) => match function {
                operators::LOGICAL_AND => Some(Self::And(Self::sides(sides)?)),
                operators::LOGICAL_OR => Some(Self::Or(Self::sides(sides)?)),
                operators::EQUALS => Some(Self::Compare(Comparison::Equal, Text::read(one)?, Text::read(other)?)),
                operators::NOT_EQUALS => Some(Self::Compare(Comparison::Unequal, Text::read(one)?, Text::read(other)?)),
                operators::IN => Some(Self::Among(Text::read(one)?, written(other)?)),
                _ => None,
            },
            (Some(text), [part]) => {
                let comparison = match function {
                    "startsWith" => Comparison::StartsWith,
                    "endsWith" => Comparison::EndsWith,
                    "contains" => Comparison::Contains,
                    _ => return None,
                };
                Some(Self::Compare(comparison, Text::read(text)?, Text::read(part)?))
            }
            _ => None,
        }
    }

    /// `None`: nothing is gained.
    fn sides(sides: &[IdedExpr]) -> Option<Box<[Self; 2]>> {
        let [one, other] = sides else { return None };
        let sides = [Self::of(one), Self::of(other)];
        let is_gain = sides.iter().any(|side| !matches!(side, Self::Rest(_)));
        is_gain.then(|| Box::new(sides))
    }

    /// # Errors
    /// As [`Condition::holds`](super::Condition::holds).
    pub(super) fn holds(&self, library: &Library, facts: &dyn Facts) -> Result<bool, ConditionError> {
        match self {
            Self::Not(part) => Ok(!part.side(library, facts)?),
            Self::And(sides) => Self::both(sides, false, library, facts),
            Self::Or(sides) => Self::both(sides, true, library, facts),
            Self::Known(variable) => Ok(facts.fact(*variable).is_some()),
            Self::Truth(variable) => match known(*variable, facts)? {
                Fact::Truth(truth) => Ok(truth),
                _ => Err(ConditionError::NoTruth),
            },
            Self::Compare(comparison, text, other) => comparison.holds(text, other, facts),
            Self::Among(text, texts) => {
                let text = text.lent(facts)?;
                Ok(texts.iter().any(|one| **one == text))
            }
            Self::Rest(expression) => {
                let lent = Lent { library, facts };
                lent.evaluate(expression, |value| value.downcast_ref::<CelBool>().map(|truth| *truth.inner()))?
                    .ok_or(ConditionError::NoTruth)
            }
        }
    }

    /// `&&` with `decisive` false, `||` with true. One side that is decisive decides, whatever becomes of the other one (CEL
    /// specification, "Logical Operators").
    fn both(
        [one, other]: &[Self; 2],
        decisive: bool,
        library: &Library,
        facts: &dyn Facts,
    ) -> Result<bool, ConditionError> {
        let one = one.side(library, facts);
        if one == Ok(decisive) {
            return one;
        }
        match other.holds(library, facts) {
            Ok(other) if other == decisive => Ok(other),
            Err(error) if error != ConditionError::NoTruth => Err(error),
            Err(_) if one.is_ok() => Err(ConditionError::Types),
            Ok(_) | Err(_) => one,
        }
    }

    /// Of an operator, which takes nothing but truth.
    fn side(&self, library: &Library, facts: &dyn Facts) -> Result<bool, ConditionError> {
        self.holds(library, facts).map_err(|error| match error {
            ConditionError::NoTruth => ConditionError::Types,
            error => error,
        })
    }
}

impl Comparison {
    /// The library's order: a member's argument before what it is a member of.
    fn holds(self, text: &Text, other: &Text, facts: &dyn Facts) -> Result<bool, ConditionError> {
        let (text, other) = match self {
            Self::Equal | Self::Unequal => (text.lent(facts)?, other.lent(facts)?),
            Self::StartsWith | Self::EndsWith | Self::Contains => {
                let other = other.lent(facts)?;
                (text.lent(facts)?, other)
            }
        };
        Ok(match self {
            Self::Equal => text == other,
            Self::Unequal => text != other,
            Self::StartsWith => text.starts_with(&*other),
            Self::EndsWith => text.ends_with(&*other),
            Self::Contains => text.contains(&*other),
        })
    }
}

impl Text {
    fn read(node: &IdedExpr) -> Option<Self> {
        match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(Self::Written(text.inner().into())),
            Expr::Ident(name) => match Reference::parse(name)? {
                Reference::Value(variable) if variable.kind() == Kind::Text => Some(Self::Of(variable)),
                _ => None,
            },
            Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
                let [fields, key] = args.as_slice() else { return None };
                let (Expr::Ident(name), Expr::Literal(LiteralValue::String(key))) = (&fields.expr, &key.expr) else {
                    return None;
                };
                match Reference::parse(name)? {
                    Reference::Value(fields) if fields.kind() == Kind::Fields => {
                        Some(Self::Field(fields, key.inner().into()))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn lent<'a>(&'a self, facts: &'a dyn Facts) -> Result<Cow<'a, str>, ConditionError> {
        match self {
            Self::Written(text) => Ok(Cow::Borrowed(text)),
            Self::Of(variable) => match known(*variable, facts)? {
                Fact::Text(text) => Ok(text),
                _ => Err(ConditionError::Types),
            },
            Self::Field(variable, key) => match known(*variable, facts)? {
                Fact::Fields(fields) => fields.get(key).ok_or_else(|| ConditionError::no_such_key(key)),
                _ => Err(ConditionError::Types),
            },
        }
    }
}

fn known(variable: Variable, facts: &dyn Facts) -> Result<Fact<'_>, ConditionError> {
    facts.fact(variable).ok_or_else(|| ConditionError::Unknown(variable.name()))
}

/// A list of texts that are all written out.
fn written(node: &IdedExpr) -> Option<Box<[Box<str>]>> {
    let Expr::List(list) = &node.expr else { return None };
    let text = |element: &IdedExpr| match &element.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().into()),
        _ => None,
    };
    list.elements.iter().map(text).collect::<Option<_>>().filter(|_| list.optional_indices.is_empty())
}

#[cfg(test)]
mod tests;
