use crate::Config;
use std::fs;
use std::path::{Path, PathBuf};

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Config {
        Config::load(&self.path("main.yaml")).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The problems, with the directory's name taken out.
    fn problems(&self) -> Vec<String> {
        let problems = Config::load(&self.path("main.yaml")).expect_err("problems");
        let directory = format!("{}/", self.0.path().display());
        let told = problems.0.iter().map(|problem| format!("{} {}", problem.place, problem.what));
        told.map(|text| text.replace(&directory, "")).collect()
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "outbound:\n  services:\n    - name: {name}\n      listen: 127.0.0.1:{port}\n      \
         endpoints: [\"10.0.0.7:15006\"]\n      identity: spiffe://td/{name}\n"
    )
}

#[test]
fn ports_and_services_of_all_files_are_added_in_order() {
    let files = Files::new(&[
        ("main.yaml", &format!("include: [more.yaml, conf.d]\nworkers: 1\n{}", service("main", 9000))),
        (
            "more.yaml",
            "outbound: { listen: 127.0.0.1:15001 }\ninbound: [{ port: 80, allow: [{ spiffe: spiffe://td/a }] }]",
        ),
        ("conf.d/20-b.yml", &service("b", 9002)),
        ("conf.d/10-a.yaml", &service("a", 9001)),
        ("conf.d/.hidden.yaml", "not: read"),
        ("conf.d/notes.txt", "not read"),
        ("conf.d/sub/x.yaml", "not: read"),
    ]);
    let config = files.load();
    let names: Vec<&str> = config.outbound.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["main", "a", "b"]);
    assert_eq!(config.outbound.listen.len(), 1);
    assert_eq!(config.inbound.len(), 1);
    let sources: Vec<PathBuf> = ["main.yaml", "more.yaml", "conf.d", "conf.d/10-a.yaml", "conf.d/20-b.yml"]
        .iter()
        .map(|name| files.path(name))
        .collect();
    assert_eq!(config.sources, sources);
    assert_eq!(
        config.outbound.services[1].place.to_string(),
        format!("{}:3:7", files.path("conf.d/10-a.yaml").display())
    );
}

#[test]
fn relative_paths_begin_at_the_file_that_names_them() {
    let files = Files::new(&[
        ("main.yaml", "include: sub/one.yaml\n"),
        ("sub/one.yaml", "include: ../two.yaml\nadmin: { socket: admin.sock }\n"),
        ("two.yaml", "telemetry: { access_log: { file: log/access.json } }\n"),
    ]);
    let config = files.load();
    assert_eq!(config.admin.socket, Some(files.path("sub/admin.sock")));
    assert_eq!(config.sources.len(), 3);
    let inner = Config::from_str(&files.path("sub/made-up.yaml"), "include: one.yaml\n").expect("loads");
    assert_eq!(inner.admin.socket, Some(files.path("sub/admin.sock")));
}

#[test]
fn a_section_is_written_in_one_file_only() {
    let files = Files::new(&[
        ("main.yaml", "include: more.yaml\nworkers: 1\nadmin: {}\noutbound: { default: deny }\n"),
        ("more.yaml", "workers: 2\nadmin: {}\noutbound: { default: deny }\n"),
    ]);
    assert_eq!(
        files.problems(),
        [
            "more.yaml:1:1 `workers` is written in two files; it stands at main.yaml:2:1 already",
            "more.yaml:2:1 `admin` is written in two files; it stands at main.yaml:3:1 already",
            "more.yaml:3:13 `default` is written in two files; it stands at main.yaml:4:13 already",
        ]
    );
}

#[test]
fn cycles_depth_and_what_is_missing_are_problems() {
    let files = Files::new(&[
        ("main.yaml", "include: [missing.yaml, self.yaml, \"*.yaml\", ~]\n"),
        ("self.yaml", "include: self.yaml\n"),
    ]);
    let problems = files.problems();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems[0].starts_with("main.yaml:1:11 cannot read missing.yaml: No such file"), "{problems:?}");
    assert!(problems[1].starts_with("main.yaml:1:36 `include: *.yaml` is a pattern"), "{problems:?}");
    assert!(problems[2].starts_with("main.yaml:1:46 `include` names no file"), "{problems:?}");
    assert!(problems[3].starts_with("self.yaml:1:10 self.yaml has been read already"), "{problems:?}");

    let chain: Vec<(String, String)> =
        (1..12).map(|n| (format!("{n}.yaml"), format!("include: {}.yaml\n", n + 1))).collect();
    let mut all: Vec<(&str, &str)> = vec![("main.yaml", "include: 1.yaml\n")];
    all.extend(chain.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    assert_eq!(Files::new(&all).problems(), ["8.yaml:1:1 files include each other more than 8 deep"]);
}

#[test]
fn a_link_to_a_file_is_that_file() {
    let files = Files::new(&[("main.yaml", "include: conf.d\n"), ("conf.d/a.yaml", "workers: 1\n")]);
    std::os::unix::fs::symlink(files.path("conf.d/a.yaml"), files.path("conf.d/b.yaml")).expect("linked");
    assert!(files.problems()[0].contains("conf.d/b.yaml has been read already"), "{:?}", files.problems());
}

/// THREATS CF-01.
#[test]
fn what_is_no_file_of_text_is_a_problem() {
    let files =
        Files::new(&[("main.yaml", "workers: 1\n"), ("empty.yaml", ""), ("large.yaml", &" ".repeat(1024 * 1024 + 1))]);
    fs::write(files.path("latin.yaml"), b"a: 1\nb: \xe4\n").expect("written");
    let told = |path: &Path| Config::load(path).expect_err("problems").to_string();
    assert!(told(&files.path("")).contains("is not a file"));
    assert!(told(Path::new("/dev/zero")).contains("is not a file"));
    assert!(told(&files.path("missing.yaml")).contains("cannot read"));
    assert!(told(&files.path("empty.yaml")).contains("the file is empty"));
    assert!(told(&files.path("large.yaml")).contains("larger than 1 MiB"));
    assert!(told(&files.path("latin.yaml")).contains("not UTF-8 in line 2"));
}

/// What a broken file might have said is not told to be missing, but what is wrong elsewhere is.
#[test]
fn problems_of_several_files_are_told_together() {
    let files = Files::new(&[
        ("main.yaml", "include: [broken.yaml, wrong.yaml]\nworkers: none\n"),
        ("broken.yaml", "a: [\n"),
        ("wrong.yaml", "drain_timeout: 5\n"),
    ]);
    let problems = files.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("broken.yaml:")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("main.yaml:2:10 ")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("wrong.yaml:1:16 ")), "{problems:?}");
}
