use super::{TimeWindow, print_moment};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn at(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp()
}

fn window(days: &[usize], hours: Option<(u16, u16)>, offset_minutes: i16) -> TimeWindow {
    let mut all = [days.is_empty(); 7];
    days.iter().for_each(|day| all[*day] = true);
    TimeWindow { from: None, until: None, days: all, hours, offset_minutes }
}

#[test]
fn working_hours_are_those_of_their_offset() {
    let office = window(&[0, 1, 2, 3, 4], Some((8 * 60, 18 * 60)), 0);
    // 2026-11-23 is a Monday.
    for (moment, fits) in [
        ("2026-11-23T08:00:00Z", true),
        ("2026-11-23T07:59:59Z", false),
        ("2026-11-23T17:59:59Z", true),
        ("2026-11-23T18:00:00Z", false),
        ("2026-11-27T12:00:00Z", true),
        ("2026-11-28T12:00:00Z", false),
        ("2026-11-22T12:00:00Z", false),
    ] {
        assert_eq!(office.contains(at(moment)), fits, "{moment}");
    }
    let berlin = TimeWindow { offset_minutes: 60, ..office };
    assert!(berlin.contains(at("2026-11-23T07:00:00Z")) && !berlin.contains(at("2026-11-23T17:00:00Z")));
}

#[test]
fn a_night_belongs_to_the_day_on_which_it_begins() {
    let monday_night = window(&[0], Some((22 * 60, 6 * 60)), 0);
    for (moment, fits) in [
        ("2026-11-23T21:59:59Z", false),
        ("2026-11-23T22:00:00Z", true),
        ("2026-11-24T05:59:59Z", true),
        ("2026-11-24T06:00:00Z", false),
        ("2026-11-23T05:00:00Z", false),
        ("2026-11-24T22:00:00Z", false),
    ] {
        assert_eq!(monday_night.contains(at(moment)), fits, "{moment}");
    }
}

#[test]
fn a_span_begins_with_its_first_second_and_ends_before_its_last() {
    let (from, until) = (at("2026-12-24T00:00:00Z"), at("2026-12-27T00:00:00Z"));
    let holidays = TimeWindow { from: Some(from), until: Some(until), ..window(&[], None, 0) };
    assert!(holidays.contains(from) && holidays.contains(until - 1));
    assert!(!holidays.contains(from - 1) && !holidays.contains(until));
    assert_eq!(print_moment(from), "2026-12-24T00:00:00Z");
}

#[test]
fn before_1970_days_are_days_too() {
    // 1969-12-29 was a Monday.
    assert!(window(&[0], None, 0).contains(at("1969-12-29T12:00:00Z")));
    assert!(!window(&[0], None, 0).contains(at("1969-12-28T23:59:59Z")));
}
