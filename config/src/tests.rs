//! The crate as a whole: examples, round trips, and the promise that all problems are told.

use super::*;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// All but what `include:` leads to, which is a part of another one.
fn examples() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![example("")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory of examples") {
            let path = entry.expect("an example").path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("yaml") => files.push(path),
                Some("d") => {}
                _ => directories.push(path),
            }
        }
    }
    files.sort();
    files
}

fn load(text: &str) -> Result<Config, Problems> {
    Config::from_str(Path::new("test.yaml"), text)
}

#[test]
fn every_example_loads() {
    let names = examples();
    assert_eq!(names.len(), 7, "{names:?}");
    for path in names {
        if let Err(problems) = Config::load(&path) {
            panic!("{problems}");
        }
    }
}

#[test]
fn what_is_in_force_reads_as_the_same() {
    for path in examples() {
        let config = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let text = config.to_effective_yaml();
        let again = Config::from_str(&path, &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert!(config.same_as(&again), "{}\n{text}", path.display());
        assert_eq!(config.effective_json().to_string(), again.effective_json().to_string());
    }
}

/// `place what` and, behind ` | `, the hint of each problem.
fn problems(text: &str) -> Vec<String> {
    let problems = match load(text) {
        Ok(config) => panic!("loaded: {}", config.to_effective_yaml()),
        Err(problems) => problems,
    };
    let told = problems
        .0
        .iter()
        .map(|problem| format!("{} {} | {}", problem.place, problem.what, problem.hint.as_deref().unwrap_or_default()));
    told.collect()
}

#[test]
fn five_mistakes_are_five_problems_with_their_places() {
    let told = problems(
        r#"
identity:
  permission_denied_grace: 30s
inbound:
  - port: 80800
    listen: 0.0.0.0:15006
    alow:
      - spiffe: spiffe://shop.example/ns/web/sa/web
outbound:
  services:
    - name: payments
      listen: localhost:9001
      endpoints: ["10.0.0.7:15006"]
      connect_timeout: 30
      identity: spiffe://shop.example/ns/shop/sa/payments-*
"#,
    );
    assert_eq!(
        told,
        [
            "test.yaml:5:11 `port: 80800` is not a whole number from 1 to 65535 | write a whole number from 1 to 65535",
            "test.yaml:7:5 unknown key `alow` in an inbound port | did you mean `allow`?",
            "test.yaml:12:15 `listen: localhost:9001` is not an IP address and port | write an IP address \
             (`127.0.0.1:8080`, `[::1]:8080`); names are for `endpoints: { dns: … }`",
            "test.yaml:14:24 `connect_timeout: 30` has no unit | write `30s` for seconds, `30ms` for milliseconds",
            "test.yaml:15:17 `identity: spiffe://shop.example/ns/shop/sa/payments-*` `*` and `{name}` stand for a whole \
             segment, and a name is a-z 0-9 _ beginning with a letter | write an ID such as \
             `spiffe://shop.example/ns/shop/sa/web`, or `…/sa/*`",
        ]
    );
}
