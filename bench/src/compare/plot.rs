//! One picture of all scenarios: a group of bars each, every product's main figure relative to Postern's.

use super::Outcome;
use super::report::median;
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LABELS: f64 = 150.0;
const BAR: f64 = 16.0;
const GAP: f64 = 30.0;
/// Bars end here; what is longer is cut and says its figure all the same.
const RATIO_MAX: f64 = 6.0;
const COLOURS: &[(&str, &str)] = &[
    ("postern", "#0b7285"),
    ("envoy", "#ae3ec9"),
    ("haproxy", "#5c940d"),
    ("haproxy-new", "#94d82d"),
    ("nginx", "#e8590c"),
    ("nginx-new", "#ffa94d"),
];

pub fn draw(outcomes: &[Outcome<'_>], date: &str) -> String {
    let mut body = String::new();
    let mut top = 50.0;
    for outcome in outcomes {
        let bars = bars(outcome);
        let Some(ours) = bars.first().map(|(_, value)| *value) else { continue };
        let scenario = outcome.scenario;
        let title = format!("{} ({})", scenario.title, scenario.figure.unit(scenario));
        writeln!(body, r#"<text x="10" y="{:.0}" font-weight="bold">{title}</text>"#, top + 8.0).ok();
        top += 16.0;
        for (name, value) in &bars {
            let ratio = value / ours;
            let length = ratio.min(RATIO_MAX) / RATIO_MAX * (WIDTH - LABELS - 130.0);
            let colour = COLOURS.iter().find(|(known, _)| known == name).map_or("#868e96", |(_, colour)| colour);
            let middle = top + BAR - 4.0;
            writeln!(body, r#"<text x="{:.0}" y="{middle:.0}" text-anchor="end">{name}</text>"#, LABELS - 8.0).ok();
            writeln!(
                body,
                r#"<rect x="{LABELS}" y="{top:.0}" width="{length:.1}" height="{:.0}" fill="{colour}"/>"#,
                BAR - 3.0
            )
            .ok();
            let cut = if ratio > RATIO_MAX { " (cut)" } else { "" };
            writeln!(
                body,
                r#"<text x="{:.0}" y="{middle:.0}">{} · {ratio:.2}×{cut}</text>"#,
                LABELS + length + 6.0,
                short(*value)
            )
            .ok();
            top += BAR;
        }
        top += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">A pair of sidecars, medians of one run, {date}; shorter is better</text>\n{body}</svg>\n"
    )
}

fn bars(outcome: &Outcome<'_>) -> Vec<(&'static str, f64)> {
    let with_rounds = outcome.products.iter().filter_map(|(name, rounds)| {
        let rounds = rounds.as_ref().ok().filter(|rounds| !rounds.is_empty())?;
        Some((*name, median(rounds.iter().map(|round| round.main))))
    });
    with_rounds.collect()
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}
