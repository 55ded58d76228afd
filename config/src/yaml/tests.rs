use super::*;
use proptest::prelude::*;

fn read(text: &str) -> (Option<Node>, Vec<String>) {
    let mut problems = Vec::new();
    let root = parse(&Arc::new(PathBuf::from("f")), text, &mut problems);
    (root, problems.iter().map(|problem| format!("{} {}", problem.place, problem.what)).collect())
}

/// `key place: value place` of a tree, one a line.
fn print(node: &Node, into: &mut Vec<String>) {
    match &node.value {
        Value::Scalar { text, plain } => {
            into.push(format!("{}:{} {text:?} {plain}", node.place.line, node.place.column))
        }
        Value::Sequence(items) => items.iter().for_each(|item| print(item, into)),
        Value::Mapping(entries) => {
            for entry in entries {
                into.push(format!("{}:{} {}", entry.key_place.line, entry.key_place.column, entry.key));
                print(&entry.value, into);
            }
        }
        Value::Refused => into.push("refused".to_owned()),
    }
}

#[test]
fn every_key_and_value_has_its_place() {
    let (root, problems) = read("# first\na: 1\nb:\n  - \"x\"\n  - { c: ü, d: y }\ne: |\n  text\n");
    assert_eq!(problems, Vec::<String>::new());
    let mut printed = Vec::new();
    print(&root.expect("a tree"), &mut printed);
    assert_eq!(
        printed,
        [
            "2:1 a",
            "2:4 \"1\" true",
            "3:1 b",
            "4:5 \"x\" false",
            "5:7 c",
            "5:10 \"ü\" true",
            "5:13 d",
            "5:16 \"y\" true",
            "6:1 e",
            "7:3 \"text\\n\" false",
        ]
    );
}

#[test]
fn refuses_what_a_configuration_does_not_need() {
    for (text, expected) in [
        ("", "f:1:1 the file is empty"),
        ("# only a comment\n", "f:1:1 the file is empty"),
        ("---\n...\n", "f:1:1 the file is empty"),
        ("~", "f:1:1 the file is empty"),
        ("a: 1\na: 2\n", "f:2:1 `a` is written twice; it stands at f:1:1 already"),
        ("x:\n  b: 1\n  c: 2\n  b: 3\n", "f:4:3 `b` is written twice; it stands at f:2:3 already"),
        ("a: 1\n---\nb: 1\n", "f:2:1 a second YAML document begins here"),
        ("a: &x 1\n", "f:1:4 an anchor (`&name`) stands here"),
        ("a: !!int 1\n", "f:1:4 a tag (`!name`) stands here"),
        ("a: !x 1\n", "f:1:4 a tag (`!name`) stands here"),
        ("{ a: 1 }: 2\n", "f:1:1 a list or mapping stands where a key is due"),
        ("? [a]\n: 2\n", "f:1:3 a list or mapping stands where a key is due"),
    ] {
        let (_, problems) = read(text);
        assert_eq!(problems, [expected], "{text:?}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    for (text, place) in
        [("a: [1, 2\nb: 3\n", "f:2:"), ("a: 1\n b: 2\n", "f:2:"), ("a: \"x\n", "f:"), ("a: b: c\n", "f:1:")]
    {
        let (root, problems) = read(text);
        assert!(root.is_none(), "{text:?}");
        assert_eq!(problems.len(), 1, "{text:?}");
        assert!(problems[0].starts_with(place) && problems[0].contains("is not YAML"), "{text:?}: {problems:?}");
    }
}

#[test]
fn a_tab_is_named() {
    let mut problems = Vec::new();
    let root = parse(&Arc::new(PathBuf::from("f")), "a:\n\tb: 1\n", &mut problems);
    assert!(root.is_none());
    assert!(problems[0].hint.as_deref().is_some_and(|hint| hint.contains("tab")), "{problems:?}");
}

/// THREATS DS-14.
#[test]
fn ds_14_deep_and_large_trees_are_refused_and_not_built() {
    let (root, problems) = read(&format!("a: {}1{}", "[".repeat(63), "]".repeat(63)));
    assert!(root.is_some(), "{problems:?}");
    for text in [
        format!("a: {}1{}", "[".repeat(64), "]".repeat(64)),
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        (0..100_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 2000))).collect(),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
    ] {
        let (root, problems) = read(&text);
        assert!(root.is_none() && problems.len() == 1, "{} {problems:?}", &text[..20]);
    }
    let (root, problems) = read(&"- 1\n".repeat(NODES_MAX));
    assert!(root.is_none());
    assert!(problems[0].contains("more than 200000 keys and values"), "{problems:?}");
}

#[test]
fn ds_14_an_alias_bomb_stays_small() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*a{}, ", level - 1).repeat(9);
        text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    let (_, problems) = read(&text);
    assert_eq!(problems.len(), PROBLEMS_MAX);
}

/// The parser's time must not grow faster than the file: 1 MiB of the worst that is known would take it hours.
#[test]
fn a_full_file_of_anything_is_read() {
    for part in [
        "[", "{", "- ", "a: ", "? ", "\"", "'", "#\n", "\n", " ", "&a ", "*a ", "!t ", "|\n", "a:\n", "%", "[a, ",
        "{a: b, ", "\t",
    ] {
        let text = part.repeat(FILE_BYTES_MAX / part.len());
        read(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics(text in "(\\PC|[\\[\\]{}:,#&*!|>'\"%@`?\n\t -]){0,200}") {
        let (root, problems) = read(&text);
        prop_assert!(root.is_some() || !problems.is_empty());
    }
}
