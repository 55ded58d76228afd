//! A condition on trial, with made-up values: types that can never go together show before a request comes.

use super::check::{Reference, is_value};
use super::variables::{Kind, Variable};
use super::{ConditionError, Fact, Facts, Fault, Lent, Library, NamedTexts};
use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo, operators};
use serde_json::Map;
use std::borrow::Cow;

/// Parts that are wrong: of each the innermost, so that one mistake is one problem.
pub(super) fn run(expression: &IdedExpr, library: &Library, places: &SourceInfo) -> Vec<Fault> {
    let facts = MadeUp::default();
    let mut trial = Trial { lent: Lent { library, facts: &facts }, places, faults: Vec::new() };
    let is_wrong = trial.part(expression);
    if !is_wrong && !has_claims(expression) {
        let kind = trial.lent.evaluate(expression, |value| value.get_type().name().to_owned());
        if let Ok(kind) = kind
            && kind != "bool"
        {
            let hint = "compare it with something: a condition is true or false";
            trial.fault(expression, format!("is a {kind}, and not true or false"), hint);
        }
    }
    trial.faults
}

struct Trial<'a> {
    lent: Lent<'a>,
    places: &'a SourceInfo,
    faults: Vec<Fault>,
}

impl Trial<'_> {
    fn fault(&mut self, node: &IdedExpr, what: String, hint: &str) {
        let at = self.places.offset_for(node.id).map_or(0, |(start, _)| start as usize);
        self.faults.push(Fault { at, what, hint: hint.to_owned() });
    }

    /// Whether something of it is wrong.
    fn part(&mut self, node: &IdedExpr) -> bool {
        let mut is_wrong = false;
        // What stands in a loop means something only with the loop.
        for child in children(node) {
            is_wrong |= self.part(child);
        }
        if is_wrong || has_claims(node) {
            return is_wrong;
        }
        if self.compares_maps(node) {
            self.fault(node, "compares maps".to_owned(), "compare what is in them, such as `token.claims.tenant`");
            return true;
        }
        if let Some((one, other)) = self.unlike(node) {
            let what = format!("compares a {one} with a {other}, and they are never equal");
            self.fault(node, what, "write text in quotes and numbers without");
            return true;
        }
        match self.lent.evaluate(node, |_| ()) {
            Err(ConditionError::Types) => {
                let what = match &node.expr {
                    Expr::Call(call) => format!("{} is given values that it is not for", shown_call(&call.func_name)),
                    Expr::Comprehension(_) => "goes through what is no list".to_owned(),
                    _ => "asks a value for what it does not have".to_owned(),
                };
                self.fault(
                    node,
                    what,
                    "docs/authorization.md says what is text, a number, true or false, a list or a map",
                );
                true
            }
            Err(ConditionError::Failed) if !names_anything(node) => {
                self.fault(node, "can never be computed".to_owned(), "say it without that");
                true
            }
            Ok(()) | Err(_) => false,
        }
    }

    /// What is lent is looked up, and has no equal.
    fn compares_maps(&self, node: &IdedExpr) -> bool {
        let Some([one, other]) = compared(node) else { return false };
        let is_map = |node| self.lent.evaluate(node, |value| value.get_type().name() == "map").unwrap_or(false);
        is_map(one) || is_map(other)
    }

    /// The types of two sides that are compared, where they have nothing to do with each other.
    fn unlike(&self, node: &IdedExpr) -> Option<(String, String)> {
        let [one, other] = compared(node)?;
        let kind = |node| self.lent.evaluate(node, |value| value.get_type().name().to_owned()).ok();
        let (one, other) = kind(one).zip(kind(other))?;
        let numbers = ["int", "uint", "double"];
        let are_numbers = numbers.contains(&one.as_str()) && numbers.contains(&other.as_str());
        (one != other && !are_numbers).then_some((one, other))
    }
}

/// The two sides of `==` or `!=`.
fn compared(node: &IdedExpr) -> Option<&[IdedExpr; 2]> {
    let Expr::Call(call) = &node.expr else { return None };
    let is_comparison = call.func_name == operators::EQUALS || call.func_name == operators::NOT_EQUALS;
    is_comparison.then(|| call.args.as_slice().try_into().ok()).flatten()
}

fn shown_call(name: &str) -> String {
    match name {
        operators::IN => "`in`".to_owned(),
        name => format!("`{}`", name.replace('_', "")),
    }
}

/// Those of which each has a value of its own.
fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(looped) => vec![&looped.iter_range],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => {
            let entries = map.entries.iter().filter_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => Some([&entry.key, &entry.value]),
                EntryExpr::StructField(_) => None,
            });
            entries.flatten().collect()
        }
        Expr::Select(select) => vec![&select.operand],
    }
}

/// Nobody knows what an issuer writes.
fn has_claims(node: &IdedExpr) -> bool {
    is_value(node, Variable::TokenClaims) || parts(node).into_iter().any(has_claims)
}

fn names_anything(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if !matches!(Reference::parse(name), Some(Reference::Pattern(_))))
        || parts(node).into_iter().any(names_anything)
}

/// As [`children`], with what stands in loops.
fn parts(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Comprehension(looped) => {
            vec![&looped.iter_range, &looped.accu_init, &looped.loop_cond, &looped.loop_step, &looped.result]
        }
        _ => children(node),
    }
}

#[derive(Default)]
struct MadeUp {
    texts: Vec<String>,
    claims: Map<String, serde_json::Value>,
    fields: AnyField,
}

impl Facts for MadeUp {
    fn fact(&self, variable: Variable) -> Option<Fact<'_>> {
        Some(match variable.kind() {
            Kind::Text => Fact::Text(Cow::Borrowed("made-up")),
            Kind::Number => Fact::Number(1),
            Kind::Truth => Fact::Truth(true),
            Kind::Moment => Fact::Moment(0),
            Kind::Texts => Fact::Texts(&self.texts),
            Kind::Fields => Fact::Fields(&self.fields),
            Kind::Claims => Fact::Claims(&self.claims),
        })
    }
}

#[derive(Debug, Default)]
struct AnyField;

impl NamedTexts for AnyField {
    fn get(&self, _: &str) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("made-up"))
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn len(&self) -> usize {
        1
    }
}
