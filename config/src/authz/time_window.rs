//! Times of the week at which a rule fits, and the span in which it does at all. Pure: the time is an argument.

use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::values::{OneOrMany, scalar_schema};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_A_DAY: i64 = 24 * 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindow {
    /// The first second, since 1970.
    pub from: Option<i64>,
    /// The first second in which it fits no more.
    pub until: Option<i64>,
    /// Monday first.
    pub days: [bool; 7],
    /// Minutes of the day; the second is the first that does not fit, and the smaller one when the window passes midnight.
    pub hours: Option<(u16, u16)>,
    /// East of UTC: where days begin and hours are counted.
    pub offset_minutes: i16,
}

impl TimeWindow {
    /// A window that passes midnight belongs to the day on which it begins. `now`: seconds since 1970.
    pub fn contains(&self, now: i64) -> bool {
        if self.from.is_some_and(|from| now < from) || self.until.is_some_and(|until| now >= until) {
            return false;
        }
        let minutes = now.div_euclid(60) + i64::from(self.offset_minutes);
        let (day, minute) = (minutes.div_euclid(MINUTES_A_DAY), minutes.rem_euclid(MINUTES_A_DAY));
        // 1970 began on a Thursday.
        let has_day = |day: i64| self.days[(day + 3).rem_euclid(7) as usize];
        let Some((first, end)) = self.hours.map(|(first, end)| (i64::from(first), i64::from(end))) else {
            return has_day(day);
        };
        if first < end {
            (first..end).contains(&minute) && has_day(day)
        } else {
            minute >= first && has_day(day) || minute < end && has_day(day - 1)
        }
    }
}

/// Times at which a rule fits: all parts together.
#[derive(JsonSchema)]
#[schemars(rename = "TimeWindow", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawTimeWindow {
    /// On these days of the week: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`.
    #[schemars(extend("x-default" = "all"))]
    days: Field<OneOrMany<Day>>,
    /// Between these times of day: `08:00-18:00`; `22:00-06:00` goes on into the next day.
    #[schemars(extend("x-default" = "all day"))]
    hours: Field<Hours>,
    /// Where these days and hours are: `+02:00` east of Greenwich. Summer time is not followed.
    #[schemars(extend("default" = "+00:00"))]
    offset: Field<Offset>,
    /// From this moment on: `2026-12-24T00:00:00Z`.
    #[schemars(extend("x-default" = "always"))]
    from: Field<Moment>,
    /// Until this moment.
    #[schemars(extend("x-default" = "for ever"))]
    until: Field<Moment>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawTimeWindow {
    const NAME: &'static str = "`time`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            days: keys.optional("days"),
            hours: keys.optional("hours"),
            offset: keys.optional("offset"),
            from: keys.optional("from"),
            until: keys.optional("until"),
            place: keys.place(),
        }
    }
}

impl RawTimeWindow {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<TimeWindow> {
        let parts = [
            self.days.is_written() && self.days.get().is_none(),
            self.hours.is_written() && self.hours.get().is_none(),
            self.offset.is_written() && self.offset.get().is_none(),
            self.from.is_written() && self.from.get().is_none(),
            self.until.is_written() && self.until.get().is_none(),
        ];
        if parts.contains(&true) {
            return None;
        }
        let mut days = [!self.days.is_written(); 7];
        self.days.or_default().0.iter().for_each(|day| days[day.0] = true);
        let window = TimeWindow {
            from: self.from.into_option().map(|moment| moment.0),
            until: self.until.into_option().map(|moment| moment.0),
            days,
            hours: self.hours.into_option().map(|hours| hours.0),
            offset_minutes: self.offset.into_option().map_or(0, |offset| offset.0),
        };
        if !window.days.contains(&true) || window.from.zip(window.until).is_some_and(|(from, until)| from >= until) {
            let hint = "name days, and a moment for `until` that is behind `from`";
            reader.problem(&self.place, "`time` has no moment that could fit", hint);
            return None;
        }
        if window.days == [true; 7] && window.hours.is_none() && window.from.or(window.until).is_none() {
            reader.problem(&self.place, "`time` fits always", "say when, or remove the key");
            return None;
        }
        Some(window)
    }
}

/// The number of a day, from Monday.
#[derive(Clone, Copy, Debug)]
struct Day(usize);

impl FromNode for Day {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let names: Vec<(&'static str, usize)> =
            DAY_NAMES.iter().enumerate().map(|(number, name)| (*name, number)).collect();
        reader.word(node, &names).map(Self)
    }
}

scalar_schema!(Day, "day", { "enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] });

#[derive(Clone, Copy, Debug)]
struct Hours((u16, u16));

impl FromNode for Hours {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "two times of day such as `08:00-18:00`", |text| {
            let (first, end) = text.split_once('-').ok_or("is not two times of day")?;
            let (first, end) = (minute_of_day(first), minute_of_day(end));
            let (first, end) = first.zip(end).ok_or("is not two times of day")?;
            match first == end || first == 24 * 60 {
                true => Err("has no time between its ends"),
                false => Ok(Self((first, end))),
            }
        })
    }
}

scalar_schema!(Hours, "times of day", { "type": "string", "title": "HH:MM-HH:MM", "pattern": "^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$" });

/// `00:00` to `24:00`.
fn minute_of_day(text: &str) -> Option<u16> {
    let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok()).flatten();
    let (hours, minutes) = text.split_once(':').and_then(|(hours, minutes)| two(hours).zip(two(minutes)))?;
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

#[derive(Clone, Copy, Debug)]
struct Offset(i16);

impl FromNode for Offset {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "an offset such as `+02:00`", |text| parse_offset(text).map(Self).ok_or("is not an offset"))
    }
}

scalar_schema!(Offset, "offset", { "type": "string", "title": "+HH:MM", "pattern": "^[+-][01][0-9]:[0-5][0-9]$" });

fn parse_offset(text: &str) -> Option<i16> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let minutes = minute_of_day(rest).filter(|minutes| *minutes <= 14 * 60)?;
    i16::try_from(minutes).ok().map(|minutes| sign * minutes)
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub i64);

impl FromNode for Moment {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "a moment such as `2026-12-24T00:00:00Z`", |text| {
            let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "is not a moment as RFC 3339 writes it")?;
            Ok::<_, &str>(Self(moment.unix_timestamp()))
        })
    }
}

scalar_schema!(Moment, "moment", { "type": "string", "title": "moment of RFC 3339", "format": "date-time" });

/// As it is written in the file.
pub(crate) fn print_moment(seconds: i64) -> String {
    // Read from four digits of year, so both can be done.
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(&Rfc3339).unwrap_or_default()
}

impl TimeWindow {
    pub fn day_names(&self) -> Vec<&'static str> {
        DAY_NAMES.iter().zip(self.days).filter_map(|(name, is_in)| is_in.then_some(*name)).collect()
    }

    /// `08:00-18:00`
    pub fn hours_text(&self) -> Option<String> {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        self.hours.map(|(first, end)| format!("{}-{}", clock(first), clock(end)))
    }

    /// `+02:00`
    pub fn offset_text(&self) -> String {
        let minutes = self.offset_minutes.unsigned_abs();
        format!("{}{:02}:{:02}", if self.offset_minutes < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.days != [true; 7] {
            parts.push(self.day_names().join(", "));
        }
        parts.extend(self.hours_text());
        if self.offset_minutes != 0 {
            parts.push(self.offset_text());
        }
        parts.extend(self.from.map(|from| format!("from {}", print_moment(from))));
        parts.extend(self.until.map(|until| format!("until {}", print_moment(until))));
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests;
