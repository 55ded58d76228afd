//! Medians, ratios and tables.

use super::peers::Found;
use super::scenario::Figure;
use super::{Outcome, Round, cpu, plot};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use time::OffsetDateTime;
use time::macros::format_description;

/// Of scenarios in which the sidecars have a CPU quota, and requests may fail for it.
const QUOTA_COLUMNS: &str = "failed | throttled, % of periods, client / server | ";

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// Of each round, ours by theirs; then the median: what a busy minute does to both does nothing to this.
fn ratio(ours: &[Round], theirs: &[Round]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.main / theirs.main))
}

pub fn table(outcome: &Outcome<'_>) -> String {
    let scenario = outcome.scenario;
    let mut text = format!("### {}: {}\n\n", scenario.name, scenario.title);
    let rate = match scenario.figure {
        Figure::CpuPerGigabyte => "MB/s".to_owned(),
        figure if figure.is_memory() => "connections".to_owned(),
        _ => format!("{}s/s", scenario.unit),
    };
    let memory = if scenario.figure.is_memory() { "KiB a connection, client / server" } else { "MiB, client / server" };
    let has_quota = scenario.setting.cpu_percent_max.is_some();
    let (quota, rule) = if has_quota { (QUOTA_COLUMNS, "---:|---:|") } else { ("", "") };
    writeln!(
        text,
        "| product | {} (least to most) | Postern's ratio | user code, % | {rate} | p50 / p99 / p99.9 µs | {quota}{memory} | load and app, CPU-µs |",
        scenario.figure.unit(scenario)
    )
    .ok();
    writeln!(text, "|---|---:|---:|---:|---:|---:|{rule}---:|---:|").ok();
    let ours = match outcome.products.first() {
        Some((_, Ok(rounds))) => rounds.as_slice(),
        _ => &[],
    };
    for (name, rounds) in &outcome.products {
        match rounds {
            Ok(rounds) if !rounds.is_empty() => text.push_str(&row(outcome, name, ours, rounds)),
            Ok(_) => {}
            Err(why) => {
                let none = if has_quota { " – | – |" } else { "" };
                text.push_str(&format!("| {name} | – | – | – | {why} | – |{none} – | – |\n"));
            }
        }
    }
    text
}

fn row(outcome: &Outcome<'_>, name: &str, ours: &[Round], rounds: &[Round]) -> String {
    let figure = outcome.scenario.figure;
    let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get));
    let least = rounds.iter().map(|round| round.main).fold(f64::INFINITY, f64::min);
    let most = rounds.iter().map(|round| round.main).fold(0.0, f64::max);
    let main = of(|round| round.main);
    let digits = if main < 10.0 {
        2
    } else if main < 100.0 {
        1
    } else {
        0
    };
    let ratio = if ours.is_empty() { "–".to_owned() } else { format!("{:.2}", ratio(ours, rounds)) };
    let rate = of(|round| round.rate) / if figure == Figure::CpuPerGigabyte { 1e6 } else { 1.0 };
    let latency = if of(|round| f64::from(round.p50)) > 0.0 {
        let [p50, p99, p999] = [|round: &Round| round.p50, |round: &Round| round.p99, |round: &Round| round.p999]
            .map(|get| median(rounds.iter().map(|round| f64::from(get(round)))));
        format!("{p50:.0} / {p99:.0} / {p999:.0}")
    } else {
        "–".to_owned()
    };
    let user = of(|round| round.user_percent);
    // The row of no sidecars has none.
    let user = if user.is_finite() { format!("{user:.0}") } else { "–".to_owned() };
    let quota = if outcome.scenario.setting.cpu_percent_max.is_some() {
        let failed: u64 = rounds.iter().map(|round| round.failed).sum();
        let [client, server] = [of(|round| round.client_throttled), of(|round| round.server_throttled)];
        format!("{failed} | {client:.0} / {server:.0} | ")
    } else {
        String::new()
    };
    let (client, server) = if figure.is_memory() {
        (of(|round| round.client_kib), of(|round| round.server_kib))
    } else {
        (of(|round| round.client_mib), of(|round| round.server_mib))
    };
    format!(
        "| {name} | {main:.digits$} ({least:.digits$} to {most:.digits$}) | {ratio} | {user} | {rate:.0} | {latency} | {quota}{client:.1} / {server:.1} | {:.1} |\n",
        of(|round| round.cpu_ends)
    )
}

/// `bench/results/NAME.md`, `.svg` and `.json`.
pub fn save(name: &str, outcomes: &[Outcome<'_>], found: &Found) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    fs::create_dir_all(&folder)?;
    let date = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"))?;
    let command: Vec<String> = std::env::args().skip(1).collect();
    let mut text = format!(
        "# Comparison, {date}\n\n![Ratios of every scenario]({name}.svg)\n\n- machine: {}, Linux {}\n- command: `cargo run --profile dist -p postern-bench -- {}`\n",
        cpu::model(),
        cpu::kernel(),
        command.join(" ")
    );
    for product in &found.products {
        writeln!(text, "- {}: {}", product.name(), product.version())?;
    }
    for absent in &found.absent {
        writeln!(text, "- **absent**: {absent}")?;
    }
    text.push_str("\nWhat the figures mean is in [bench/README.md](../README.md). A ratio below 1 says that Postern needs less.\n\n");
    let mut raw = Vec::new();
    for outcome in outcomes {
        text.push_str(&table(outcome));
        text.push('\n');
        let products = outcome.products.iter().map(|(name, rounds)| json!({ "product": name, "rounds": rounds }));
        raw.push(json!({ "scenario": outcome.scenario.name, "products": products.collect::<Vec<_>>() }));
    }
    fs::write(folder.join(format!("{name}.md")), text.trim_end().to_owned() + "\n")?;
    fs::write(folder.join(format!("{name}.svg")), plot::draw(outcomes, &date))?;
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string(&json!(raw))? + "\n")?;
    eprintln!("written: {}/{name}.md, .svg, .json", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0]), 3.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
