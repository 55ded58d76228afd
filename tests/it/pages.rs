//! Pages that state what the code states are compared with it.

use crate::tidy::root;
use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// `("no_identity", "503", "14")` of each row in `refusal.rs`.
fn refusals(code: &str) -> Vec<(&str, &str, &str)> {
    let rows =
        code.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> (\"")?.1.strip_suffix("),"));
    let rows = rows.map(|row| {
        let (code, numbers) = row.split_once("\",").unwrap();
        let (http, grpc) = numbers.split_once(',').unwrap();
        (code, http.trim(), grpc.trim())
    });
    rows.collect()
}

#[test]
fn every_refusal_is_explained() {
    let (code, page) = (read("proxy/src/refusal.rs"), read("docs/refusals.md"));
    let refusals = refusals(&code);
    assert!(refusals.len() > 30, "the table in refusal.rs is read no longer: {refusals:?}");
    for (code, http, grpc) in &refusals {
        let row = format!("| `{code}` | {http} | {grpc} | ");
        assert_eq!(page.matches(&row).count(), 1, "docs/refusals.md should have one row that starts with {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, refusals.len(), "docs/refusals.md explains a code that is not there");
}

#[test]
fn the_commands_of_the_readme_are_there_for_ci_to_run() {
    let readme = read("README.md");
    let mut blocks = readme.split("```").skip(1).step_by(2).flat_map(str::lines);
    let commands: Vec<_> = blocks.by_ref().filter(|line| line.starts_with("cargo ")).collect();
    for start in ["cargo run --release -- demo ", "cargo test --workspace "] {
        assert!(commands.iter().any(|line| line.starts_with(start)), "README.md lacks `{start}`: {commands:?}");
    }
}

/// Every page that somebody reads.
fn pages() -> Vec<String> {
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(str::to_owned);
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| format!("docs/{}", name.to_string_lossy())).filter(|name| name.ends_with(".md"));
    pages.into_iter().chain(docs).collect()
}

#[test]
fn metrics_that_pages_name_exist() {
    let metrics = read("docs/metrics.md");
    let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
    let mut unknown = Vec::new();
    for page in pages() {
        for rest in read(&page).split("postern_").skip(1) {
            let name = rest.split(|character| !is_name(character)).next().unwrap_or_default();
            if !metrics.contains(&format!("| `postern_{name}` |")) {
                unknown.push(format!("{page}: postern_{name}"));
            }
        }
    }
    assert!(unknown.is_empty(), "metrics that there are not: {unknown:?}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let folder = root().join(&page).parent().unwrap().to_owned();
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            if !(link.starts_with("http") || file.is_empty() || folder.join(file).exists()) {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:?}");
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Everything that the program's own code, without its tests, has as a text.
fn code() -> String {
    let mut folders = vec![root().join("proxy/src")];
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("tests") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "rs") && !entry.ends_with("tests.rs") {
                code.push_str(&fs::read_to_string(entry).unwrap());
            }
        }
    }
    code
}

/// Whether `docs/configuration.md` has `key` in the section of its name: `audit.seal` is the row `seal` of `audit`.
fn is_setting(reference: &str, key: &str) -> bool {
    let (section, key) =
        key.rsplit_once('.').map_or(("The file".to_owned(), key), |(section, key)| (format!("`{section}`"), key));
    let found = reference.split("\n## ").find(|text| text.lines().next() == Some(section.as_str()));
    found.is_some_and(|text| text.contains(&format!("\n| `{key}` |")))
}

#[test]
fn settings_metrics_and_records_that_controls_name_exist() {
    let (page, reference, metrics) = (read("docs/controls.md"), read("docs/configuration.md"), read("docs/metrics.md"));
    let code = code();
    let mut unknown = Vec::new();
    for framework in page.split("\n## ").skip(1) {
        let rows = framework.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| record |"));
        let mut count = 0;
        for row in rows {
            count += 1;
            let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let [_control, says, settings, of_metrics, records] = cells[..] else { panic!("five columns: {row}") };
            let none = [settings, of_metrics, records].map(|cell| cell.trim() == "–");
            assert!(
                none == [false; 3] || (none == [true; 3] && says.contains("ot covered**")),
                "all or nothing: {row}"
            );
            unknown.extend(quoted(settings).filter(|key| !is_setting(&reference, key)));
            unknown.extend(quoted(of_metrics).filter(|name| !metrics.contains(&format!("| `{name}` |"))));
            unknown.extend(quoted(records).filter(|name| !code.contains(&format!("\"{name}\""))));
        }
        assert!(count >= 7, "a framework without its table: {framework}");
    }
    assert_eq!(page.matches("\n## ").count(), 7, "seven lists");
    assert!(unknown.is_empty(), "docs/controls.md names what there is not: {unknown:?}");
}
