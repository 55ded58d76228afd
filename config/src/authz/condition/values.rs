//! What is lent to a condition: values of the request as they are, without a copy where that is possible.

use super::Variable;
use crate::authz::print_moment;
use crate::read::shown;
use cel::ExecutionError;
use cel::common::traits::{Comparer, Container, Indexer, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, MAP_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use regex::Regex;
use serde_json::{Map, Value};
use std::any::Any;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Debug};
use std::sync::Arc;

/// What is known, when a condition asks.
pub trait Facts: Send + Sync {
    /// `None`: it is not known.
    fn fact(&self, variable: Variable) -> Option<Fact<'_>>;
}

/// One value.
#[derive(Debug)]
pub enum Fact<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Truth(bool),
    /// Seconds since 1970.
    Moment(i64),
    Texts(&'a [String]),
    Fields(&'a dyn NamedTexts),
    Claims(&'a Map<String, Value>),
}

/// Short, on one line.
impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Truth(truth) => write!(f, "{truth}"),
            Self::Moment(seconds) => f.write_str(&print_moment(*seconds)),
            Self::Texts(texts) => write!(f, "[{}]", shown(&texts.join(", "))),
            Self::Fields(fields) => {
                let pairs =
                    fields.names().into_iter().filter_map(|name| Some(format!("{name}: {}", fields.get(name)?)));
                write!(f, "{{{}}}", shown(&pairs.collect::<Vec<_>>().join(", ")))
            }
            Self::Claims(claims) => f.write_str(&shown(&serde_json::to_string(claims).unwrap_or_default())),
        }
    }
}

/// Texts by name, looked up when asked for.
pub trait NamedTexts: Debug + Send + Sync {
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;

    fn names(&self) -> Vec<&str>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Entries of a list in a token. A longer one is no list that a rule is about.
const ENTRIES_MAX: usize = 256;

pub(super) fn lend<'a>(fact: Fact<'a>) -> CowVal<'a, 'a> {
    match fact {
        Fact::Text(text) => CowVal::Owned(text_val(text)),
        Fact::Number(number) => CowVal::owned(CelInt::from(number)),
        Fact::Truth(truth) => CowVal::owned(CelBool::from(truth)),
        Fact::Moment(seconds) => CowVal::owned(Moment(seconds)),
        Fact::Texts(texts) => {
            let texts = texts.iter().map(|text| text_val(Cow::Borrowed(text)));
            CowVal::owned(CelList::from(texts.collect::<Vec<_>>()))
        }
        Fact::Fields(fields) => CowVal::owned(FieldsVal(fields)),
        Fact::Claims(claims) => CowVal::owned(Object(claims)),
    }
}

fn text_val<'v>(text: Cow<'v, str>) -> Box<dyn Val + 'v> {
    match text {
        Cow::Borrowed(text) => Box::new(CelString::from(text)),
        Cow::Owned(text) => Box::new(CelString::from(text)),
    }
}

fn key(index: &dyn Val) -> Result<&str, ExecutionError> {
    let wrong =
        || ExecutionError::UnexpectedType { got: index.get_type().name().to_owned(), want: "string".to_owned() };
    index.downcast_ref::<CelString<'_>>().map(CelString::inner).ok_or_else(wrong)
}

fn no_such_key(key: &str) -> ExecutionError {
    ExecutionError::NoSuchKey(Arc::new(key.to_owned()))
}

#[derive(Clone, Copy, Debug)]
struct FieldsVal<'a>(&'a dyn NamedTexts);

impl FieldsVal<'_> {
    fn find<'v>(self, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = key(index)?;
        self.0.get(key).map(text_val).ok_or_else(|| no_such_key(key))
    }
}

/// Claims, or an object within them.
#[derive(Clone, Copy, Debug)]
struct Object<'a>(&'a Map<String, Value>);

impl Object<'_> {
    fn find<'v>(self, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = key(index)?;
        json_val(self.0.get(key).ok_or_else(|| no_such_key(key))?)
    }
}

fn json_val<'v>(value: &'v Value) -> Result<Box<dyn Val + 'v>, ExecutionError> {
    Ok(match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => Box::new(CelBool::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(values) if values.len() > ENTRIES_MAX => {
            return Err(ExecutionError::function_error("claims", "a list of more than 256 entries"));
        }
        Value::Array(values) => {
            let values = values.iter().map(json_val).collect::<Result<Vec<_>, _>>()?;
            Box::new(CelList::from(values))
        }
        Value::Object(object) => Box::new(Object(object)),
    })
}

/// A map whose values are made when they are asked for.
macro_rules! lent_map {
    ($name:ident, $contains:expr, $length:expr) => {
        impl Val for $name<'_> {
            fn get_type(&self) -> &Type {
                &MAP_TYPE
            }

            fn cel_type() -> &'static Type {
                &MAP_TYPE
            }

            fn as_container(&self) -> Option<&dyn Container> {
                Some(self)
            }

            fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
            where
                Self: 'v,
            {
                Some(self)
            }

            fn as_sizer(&self) -> Option<&dyn Sizer> {
                Some(self)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
            where
                Self: 'v,
            {
                Box::new(*self)
            }
        }

        impl Container for $name<'_> {
            fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
                let contains: fn(&Self, &str) -> bool = $contains;
                key(value).map(|key| contains(self, key))
            }
        }

        impl Sizer for $name<'_> {
            fn size(&self) -> CelInt {
                let length: fn(&Self) -> usize = $length;
                CelInt::from(i64::try_from(length(self)).unwrap_or(i64::MAX))
            }
        }

        impl Indexer for $name<'_> {
            fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
            where
                Self: 'v,
            {
                self.find(index).map(CowVal::Owned)
            }

            fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
            where
                Self: 'v,
            {
                self.find(index)
            }
        }
    };
}

lent_map!(FieldsVal, |map, key| map.0.get(key).is_some(), |map| map.0.len());
lent_map!(Object, |map, key| map.0.contains_key(key), |map| map.0.len());

pub(super) const MOMENT: Type = Type::new_unspecified_type("timestamp");
pub(super) const PATTERN: Type = Type::new_unspecified_type("pattern");
static MOMENT_TYPE: Type = MOMENT;
static PATTERN_TYPE: Type = PATTERN;

/// Seconds since 1970. The crate's own brings the time zones of the world along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(pub i64);

impl Val for Moment {
    fn get_type(&self) -> &Type {
        &MOMENT_TYPE
    }

    fn cel_type() -> &'static Type {
        &MOMENT_TYPE
    }

    fn as_comparer(&self) -> Option<&dyn Comparer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>() == Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Moment {}

impl Comparer for Moment {
    fn compare(&self, other: &dyn Val) -> Result<Ordering, ExecutionError> {
        let wrong =
            || ExecutionError::UnexpectedType { got: other.get_type().name().to_owned(), want: "timestamp".to_owned() };
        other.downcast_ref::<Self>().map(|other| self.0.cmp(&other.0)).ok_or_else(wrong)
    }
}

/// A pattern of `matches`, compiled when the file was read.
#[derive(Clone, Debug)]
pub(super) struct Pattern(pub Regex);

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}
