//! Reads a condition, and holds what it names and calls against what there is.
//!
//! Names become [`Reference`]s here, so that an evaluation looks nothing up by name, and patterns are compiled.

use super::functions::FUNCTIONS;
use super::values::Pattern;
use super::variables::{VARIABLES, Variable, is_namespace};
use super::{Fault, TEXT_MAX};
use crate::authz::conditions::not_for_rules;
use crate::read::{nearest, shown};
use cel::Env;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};
use regex::RegexBuilder;

/// Operators within operators: what is evaluated by recursion must not use up a thread's stack.
const DEPTH_MAX: usize = 32;
/// Bytes of a compiled pattern, and of the states that matching may keep.
const PATTERN_BYTES_MAX: usize = 128 * 1024;
const PATTERNS_MAX: usize = 32;
/// Of these a condition as deep as it may be needs a third, without optimization. Only what is used is taken from the system.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// What an identifier of a checked expression stands for: one character that no identifier in a file can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Value(Variable),
    /// `has(…)` of a variable.
    IsKnown(Variable),
    Pattern(usize),
}

// Of the private use area of Unicode.
const VALUES: u32 = 0xE000;
const KNOWN: u32 = 0xE400;
const PATTERNS: u32 = 0xE800;
const END: u32 = 0xEC00;

impl Reference {
    pub fn parse(name: &str) -> Option<Self> {
        let mut characters = name.chars();
        let (Some(character), None) = (characters.next().map(u32::from), characters.next()) else { return None };
        let variable = |base: u32| VARIABLES.get((character - base) as usize).map(|(_, variable, _)| *variable);
        match character {
            VALUES..KNOWN => variable(VALUES).map(Self::Value),
            KNOWN..PATTERNS => variable(KNOWN).map(Self::IsKnown),
            PATTERNS..END => Some(Self::Pattern((character - PATTERNS) as usize)),
            _ => None,
        }
    }

    fn print(self) -> String {
        let index = |variable: Variable| VARIABLES.iter().position(|(_, known, _)| *known == variable).unwrap_or(0);
        let (base, index) = match self {
            Self::Value(variable) => (VALUES, index(variable)),
            Self::IsKnown(variable) => (KNOWN, index(variable)),
            Self::Pattern(index) => (PATTERNS, index),
        };
        char::from_u32(base + index as u32).map(String::from).unwrap_or_default()
    }
}

/// A condition whose names are known.
pub(super) struct Read {
    pub expression: IdedExpr,
    pub patterns: Vec<Pattern>,
    pub uses: Vec<Variable>,
    pub captures: Vec<String>,
    pub places: SourceInfo,
}

pub(super) fn read(text: &str, environment: &Env) -> Result<Read, Vec<Fault>> {
    let fault = |at, what: String, hint: &str| vec![Fault { at, what, hint: hint.to_owned() }];
    if text.len() > TEXT_MAX {
        let what = format!("the condition is longer than {TEXT_MAX} bytes");
        return Err(fault(0, what, "write several rules, or ask an external authorizer"));
    }
    // The parser recurses as well: what cannot be right is not given to it.
    if let Some(at) = too_deep(text) {
        let what = format!("the condition is nested deeper than {DEPTH_MAX} levels");
        return Err(fault(at, what, "write several rules"));
    }
    let parser = environment.parser().max_recursion_depth(2 * DEPTH_MAX as u16);
    let parsed = with_stack(move || parser.parse_with_source_info(text));
    let parsed = parsed.ok_or_else(|| fault(0, "there is no thread to read it".to_owned(), "try again"))?;
    let (expression, places) = parsed.map_err(|errors| {
        let errors = errors.errors.into_iter().take(1);
        let hint = "write CEL, such as `request.method == 'GET' && peer.trust_domain == 'shop.example'`";
        let faults =
            errors.map(|error| Fault { at: at(text, error.pos), what: said(&error.msg), hint: hint.to_owned() });
        faults.collect::<Vec<_>>()
    })?;
    let mut check = Check {
        places: &places,
        faults: Vec::new(),
        patterns: Vec::new(),
        uses: Vec::new(),
        captures: Vec::new(),
        names: Vec::new(),
        within_loop: false,
    };
    let mut expression = expression;
    check.walk(&mut expression, 0);
    let Check { faults, patterns, uses, captures, .. } = check;
    match faults.is_empty() {
        true => Ok(Read { expression, patterns, uses, captures, places }),
        false => Err(faults),
    }
}

/// The parser is generated from a grammar, and twenty brackets within each other are more than a thread usually has room for.
fn with_stack<T: Send>(parse: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("condition".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, parse).ok()?.join().ok()
    })
}

/// Where brackets outside of quotes are nested too deep.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    for (at, character) in text.char_indices() {
        match (character, quote) {
            ('\'' | '"', None) => quote = Some(character),
            (_, Some(open)) if open == character => quote = None,
            ('(' | '[' | '{', None) => depth += 1,
            (')' | ']' | '}', None) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Some(at);
        }
    }
    None
}

/// Of a line and a column, which count from 1.
fn at(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    before + usize::try_from(column - 1).unwrap_or(0)
}

/// The parser's first line, in our style.
fn said(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    format!("is not CEL: {}", shown(line.trim_start_matches("Syntax error: ")))
}

struct Check<'a> {
    places: &'a SourceInfo,
    faults: Vec<Fault>,
    patterns: Vec<Pattern>,
    uses: Vec<Variable>,
    captures: Vec<String>,
    /// Of `exists(x, …)` and the like, while they mean something.
    names: Vec<String>,
    within_loop: bool,
}

impl Check<'_> {
    fn fault(&mut self, id: u64, what: impl Into<String>, hint: impl Into<String>) {
        let at = self.places.offset_for(id).map_or(0, |(start, _)| start as usize);
        self.faults.push(Fault { at, what: what.into(), hint: hint.into() });
    }

    fn walk(&mut self, node: &mut IdedExpr, depth: usize) {
        if depth > DEPTH_MAX {
            if self.faults.is_empty() {
                self.fault(node.id, format!("is nested deeper than {DEPTH_MAX} levels"), "write several rules");
            }
            return;
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) if name.starts_with('@') || self.names.contains(name) => {}
            Expr::Ident(name) => match Variable::by_name(name) {
                Some(variable) => *name = self.use_of(variable),
                None => self.unknown(id, &name.clone()),
            },
            Expr::Select(_) => self.select(node, depth),
            Expr::Call(call) => self.call(id, call, depth),
            Expr::List(list) => list.elements.iter_mut().for_each(|element| self.walk(element, depth + 1)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.walk(&mut entry.key, depth + 1);
                        self.walk(&mut entry.value, depth + 1);
                    }
                }
            }
            Expr::Struct(_) => self.fault(id, "makes a message, of which there are none here", "compare values"),
            Expr::Comprehension(looped) => {
                self.walk(&mut looped.iter_range, depth + 1);
                if self.within_loop {
                    let hint = "ask for one of them in a rule of its own: their work would be that of both, multiplied";
                    return self.fault(id, "has one `exists`, `all`, `map` or `filter` within another", hint);
                }
                if Variable::by_name(&looped.iter_var).is_some() || is_namespace(&looped.iter_var) {
                    let what = format!("`{}` stands for something else already", looped.iter_var);
                    self.fault(id, what, "choose another name, such as `x`");
                }
                let names = self.names.len();
                self.names.extend([looped.iter_var.clone(), looped.accu_var.clone()]);
                self.names.extend(looped.iter_var2.clone());
                self.within_loop = true;
                for part in [&mut looped.accu_init, &mut looped.loop_cond, &mut looped.loop_step, &mut looped.result] {
                    self.walk(part, depth + 1);
                }
                self.within_loop = false;
                self.names.truncate(names);
            }
        }
    }

    fn use_of(&mut self, variable: Variable) -> String {
        if !self.uses.contains(&variable) {
            self.uses.push(variable);
        }
        Reference::Value(variable).print()
    }

    fn unknown(&mut self, id: u64, name: &str) {
        let names: Vec<&'static str> = VARIABLES.iter().map(|(name, ..)| *name).collect();
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "docs/authorization.md lists what a condition can name; text stands in quotes".to_owned(),
        };
        self.fault(id, format!("nothing is called `{}`", shown(name)), hint);
    }

    /// `a.b.c`, where `a.b` may be a variable that has a `c`.
    fn select(&mut self, node: &mut IdedExpr, depth: usize) {
        let id = node.id;
        let name = qualified(node).filter(|name| {
            let root = name.split('.').next().unwrap_or_default();
            !self.names.iter().any(|known| known == root)
        });
        let Expr::Select(select) = &mut node.expr else { return };
        if let Some(name) = name {
            if let Some(variable) = Variable::by_name(&name) {
                let reference = self.use_of(variable);
                let known = Reference::IsKnown(variable).print();
                node.expr = Expr::Ident(if select.test { known } else { reference });
                return;
            }
            let mut beginnings = name.match_indices('.').map(|(end, _)| &name[..end]);
            if !beginnings.any(|beginning| Variable::by_name(beginning).is_some()) {
                let root = root(&select.operand).id;
                return self.unknown(root, &name);
            }
        }
        let SelectExpr { operand, field, test } = select;
        let field = field.clone();
        self.walk(operand, depth + 1);
        self.look_up(id, operand, &field);
        if !*test && matches!(&operand.expr, Expr::Ident(name) if Reference::parse(name).is_some()) {
            // `a.b` is `a['b']`; as a name it would be put together and looked up each time.
            let key = IdedExpr { id, expr: Expr::Literal(LiteralValue::String(field.into())) };
            let args = vec![std::mem::take(&mut **operand), key];
            node.expr = Expr::Call(CallExpr { func_name: operators::INDEX.to_owned(), target: None, args });
        }
    }

    /// `key` of something, where it is written out.
    fn look_up(&mut self, id: u64, operand: &IdedExpr, key: &str) {
        let Expr::Ident(name) = &operand.expr else { return };
        match Reference::parse(name) {
            Some(Reference::Value(Variable::Headers)) => {
                if let Some(instead) = not_for_rules(&key.to_ascii_lowercase()) {
                    self.fault(id, format!("a rule cannot ask for the header `{}`", shown(key)), instead);
                }
            }
            Some(Reference::Value(Variable::Captures)) if !self.captures.iter().any(|known| known == key) => {
                self.captures.push(key.to_owned());
            }
            _ => {}
        }
    }

    fn call(&mut self, id: u64, call: &mut CallExpr, depth: usize) {
        if call.func_name == "matches" {
            return self.matches(id, call, depth);
        }
        let is_operator = call.func_name.contains(['_', '@']) || call.func_name == operators::IN;
        if !is_operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let hint = match nearest(&call.func_name, FUNCTIONS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "docs/authorization.md lists what a condition can call".to_owned(),
            };
            return self.fault(id, format!("there is no function `{}`", shown(&call.func_name)), hint);
        }
        if let Some(target) = &mut call.target {
            self.walk(target, depth + 1);
        }
        call.args.iter_mut().for_each(|argument| self.walk(argument, depth + 1));
        let key_of = match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::IN, [key, map]) => Some((map, key)),
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [map, key]) => Some((map, key)),
            _ => None,
        };
        if let Some((map, key)) = key_of {
            match &key.expr {
                Expr::Literal(LiteralValue::String(key)) => self.look_up(id, map, key.inner()),
                _ if is_value(map, Variable::Captures) => {
                    self.fault(id, "asks for a capture whose name is not written out", "write `captures.NAME`");
                }
                _ => {}
            }
        }
    }

    /// `text.matches('…')` or `matches(text, '…')`: its pattern is compiled now, once.
    fn matches(&mut self, id: u64, call: &mut CallExpr, depth: usize) {
        let pattern = match (&mut call.target, call.args.as_mut_slice()) {
            (Some(text), [pattern]) => {
                self.walk(text, depth + 1);
                pattern
            }
            (None, [text, pattern]) => {
                self.walk(text, depth + 1);
                pattern
            }
            _ => return self.fault(id, "`matches` is not given one pattern", "write `text.matches('^a+$')`"),
        };
        let Expr::Literal(LiteralValue::String(written)) = &pattern.expr else {
            let hint = "write it out: what callers send must not be compiled";
            return self.fault(pattern.id, "the pattern of `matches` is not written out", hint);
        };
        let compiled = RegexBuilder::new(written.inner())
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .nest_limit(DEPTH_MAX as u32)
            .build();
        match compiled {
            Ok(compiled) if self.patterns.len() < PATTERNS_MAX => {
                pattern.expr = Expr::Ident(Reference::Pattern(self.patterns.len()).print());
                self.patterns.push(Pattern(compiled));
            }
            Ok(_) => self.fault(id, format!("has more than {PATTERNS_MAX} patterns"), "write several rules"),
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let hint = "write a regular expression as RE2 has them: no references back, no look-around";
                self.fault(pattern.id, format!("the pattern cannot be used: {}", shown(last)), hint);
            }
        }
    }
}

pub(super) fn is_value(node: &IdedExpr, variable: Variable) -> bool {
    matches!(&node.expr, Expr::Ident(name) if Reference::parse(name) == Some(Reference::Value(variable)))
}

/// `a` of `a.b.c`.
fn root(node: &IdedExpr) -> &IdedExpr {
    match &node.expr {
        Expr::Select(select) => root(&select.operand),
        _ => node,
    }
}

/// `a.b.c` as it is written, also within `has(…)`.
fn qualified(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", qualified(&select.operand)?, select.field)),
        _ => None,
    }
}
