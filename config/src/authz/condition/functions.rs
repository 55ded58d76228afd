//! What a condition may call.

use super::values::{MOMENT, Moment, PATTERN, Pattern};
use cel::common::functions::Function;
use cel::common::types::{CelBool, CelInt, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{DeclarationError, Env, ExecutionError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Functions and members by name, for hints; operators and macros besides.
pub(super) const FUNCTIONS: &[&str] = &[
    "bool",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getFullYear",
    "getHours",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "int",
    "lowerAscii",
    "matches",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "uint",
    "value",
];

/// Shared by all conditions of a configuration: to make it costs more than a hundred evaluations.
pub(crate) fn environment() -> Env {
    let mut environment = Env::stdlib();
    // Names that nobody else has declared: what is wrong here shows in the first test that runs.
    if let Err(conflict) = declare(&mut environment) {
        debug_assert!(false, "{conflict}");
    }
    environment
}

fn declare(environment: &mut Env) -> Result<(), DeclarationError> {
    environment.add_overload("matches", "matches_text", vec![STRING_TYPE, PATTERN], matches)?;
    environment.add_member_overload("matches", "text_matches", STRING_TYPE, vec![PATTERN], matches)?;
    environment.add_member_overload("lowerAscii", "text_lower_ascii", STRING_TYPE, vec![], lower_ascii)?;
    environment.add_overload("timestamp", "text_to_moment", vec![STRING_TYPE], timestamp)?;
    // As CEL has it: months, days of the month and of the week count from 0, the week from Sunday; `getDate` counts from 1.
    let parts: [(&str, &str, Function); 8] = [
        ("getFullYear", "moment_year", |moment| part(&moment, |moment| moment.year().into())),
        ("getMonth", "moment_month", |moment| part(&moment, |moment| i64::from(u8::from(moment.month())) - 1)),
        ("getDayOfMonth", "moment_day", |moment| part(&moment, |moment| i64::from(moment.day()) - 1)),
        ("getDate", "moment_date", |moment| part(&moment, |moment| moment.day().into())),
        ("getDayOfWeek", "moment_weekday", |moment| {
            part(&moment, |moment| moment.weekday().number_days_from_sunday().into())
        }),
        ("getHours", "moment_hours", |moment| part(&moment, |moment| moment.hour().into())),
        ("getMinutes", "moment_minutes", |moment| part(&moment, |moment| moment.minute().into())),
        ("getSeconds", "moment_seconds", |moment| part(&moment, |moment| moment.second().into())),
    ];
    parts.into_iter().try_for_each(|(name, id, read)| environment.add_member_overload(name, id, MOMENT, vec![], read))
}

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Returned<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn matches<'b, 'v>(arguments: Arguments<'b, 'v>) -> Returned<'b, 'v> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    let pattern = arguments.get(1).and_then(|pattern| pattern.downcast_ref::<Pattern>());
    let (text, pattern) = text.zip(pattern).ok_or_else(|| wrong("matches"))?;
    Ok(CowVal::owned(CelBool::from(pattern.0.is_match(text.inner()))))
}

fn lower_ascii<'b, 'v>(arguments: Arguments<'b, 'v>) -> Returned<'b, 'v> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    Ok(CowVal::owned(CelString::from(text.ok_or_else(|| wrong("lowerAscii"))?.inner().to_ascii_lowercase())))
}

fn timestamp<'b, 'v>(arguments: Arguments<'b, 'v>) -> Returned<'b, 'v> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    let text = text.ok_or_else(|| wrong("timestamp"))?.inner();
    let moment =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|error| ExecutionError::function_error("timestamp", error))?;
    Ok(CowVal::owned(Moment(moment.unix_timestamp())))
}

fn part<'b, 'v>(arguments: &[CowVal<'b, 'v>], read: fn(OffsetDateTime) -> i64) -> Returned<'b, 'v> {
    let moment = arguments.first().and_then(|moment| moment.downcast_ref::<Moment>());
    let moment = moment.and_then(|moment| OffsetDateTime::from_unix_timestamp(moment.0).ok());
    Ok(CowVal::owned(CelInt::from(read(moment.ok_or_else(|| wrong("timestamp"))?))))
}

fn wrong(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "an argument of another type")
}
