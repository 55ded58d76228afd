//! What is installed, held against what should be: texts in, differences out.

use std::collections::BTreeSet;

/// Lines that are on one side only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub missing: Vec<String>,
    pub extra: Vec<String>,
    /// The same rules, but in another order, in which the first match may be another.
    pub reordered: bool,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Two listings of one nftables table.
pub fn tables(expected: &str, actual: &str) -> Difference {
    let (expected, actual) = (rules(expected), rules(actual));
    let mut difference = sets(&expected.iter().cloned().collect(), &actual.iter().cloned().collect());
    difference.reordered = difference.is_none() && by_chain(expected) != by_chain(actual);
    difference
}

pub fn sets(expected: &BTreeSet<String>, actual: &BTreeSet<String>) -> Difference {
    Difference {
        missing: expected.difference(actual).cloned().collect(),
        extra: actual.difference(expected).cloned().collect(),
        reordered: false,
    }
}

/// `chain: rule` for each line.
fn rules(listing: &str) -> Vec<String> {
    let mut chain = "";
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if !line.is_empty() && line != "}" && !line.starts_with("table ") && !line.starts_with('#') {
            found.push(format!("{chain}: {}", normal(line)));
        }
    }
    found
}

/// Chains are listed in any order, rules in theirs.
fn by_chain(mut rules: Vec<String>) -> Vec<String> {
    rules.sort_by_key(|rule| rule.split(':').next().unwrap_or_default().to_owned());
    rules
}

/// Elements of a set in order, one element without braces, and no counters.
fn normal(rule: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut elements: Option<Vec<&str>> = None;
    let mut skip = 0;
    for word in rule.split_ascii_whitespace() {
        match (&mut elements, word) {
            _ if skip > 0 => skip -= 1,
            // `counter packets 7 bytes 420`
            (None, "counter") => skip = 4,
            (None, "{") => elements = Some(Vec::new()),
            (Some(within), "}") => {
                within.sort_unstable();
                words.push(within.join(","));
                elements = None;
            }
            (Some(within), element) => within.push(element.trim_end_matches(',')),
            (None, word) => words.push(word.to_owned()),
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Difference, tables};

    const TABLE: &str = "table inet postern {\n\tchain a {\n\t\ttype nat hook output priority -101; policy accept;\n\t\t\
                         tcp dport { 80, 443 } return\n\t\tredirect to :15001\n\t}\n\n\tchain b {\n\t\tdrop\n\t}\n}\n";

    #[test]
    fn the_same_rules_in_other_words_are_no_difference() {
        for (from, to) in [
            ("{ 80, 443 }", "{ 443, 80 }"),
            ("drop", "counter packets 3 bytes 180 drop"),
            ("table inet", "# comment\ntable inet"),
        ] {
            assert!(tables(TABLE, &TABLE.replace(from, to)).is_none(), "{from} as {to}");
        }
        assert!(tables("chain a {\n dport 80 return\n}", "chain a {\n dport { 80 } return\n}").is_none());
    }

    #[test]
    fn names_what_is_missing_extra_or_in_another_order() {
        let changed = TABLE.replace("redirect to :15001", "redirect to :15002");
        let expected = Difference {
            missing: vec!["a: redirect to :15001".to_owned()],
            extra: vec!["a: redirect to :15002".to_owned()],
            reordered: false,
        };
        assert_eq!(tables(TABLE, &changed), expected);
        let swapped = TABLE
            .replace("\t\ttcp dport { 80, 443 } return\n", "")
            .replace(":15001\n", ":15001\n\t\ttcp dport { 80, 443 } return\n");
        assert_eq!(tables(TABLE, &swapped), Difference { reordered: true, ..Difference::default() });
    }
}
