//! A file is taken whole, and says the same when it is written out and read again; or it is refused with problems that stand
//! in it.

use super::tokens::spell;
use postern_config::Config;
use std::path::Path;

const VOCABULARY: &[&str] = &[
    "identity:\n",
    "inbound:\n",
    "outbound:\n",
    "  - port: 8080\n",
    "    allow: [{ spiffe: spiffe://a/b }]\n",
    "services:\n",
    "    routes:\n",
    "      - match: { path: \"/a/**\" }\n",
    "hosts: [a.svc]",
    "\t",
    "\n",
    "listen: 127.0.0.1:9001",
    "&a ",
    "\r",
    "*a",
    "<<: ",
    "- ",
    "  ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "!!str ",
    "---\n",
    "...\n",
    "#",
    "telemetry: { access_log: ",
    "limits: { ",
    "timeouts: { ",
    "'",
];

pub(super) fn check(bytes: &[u8]) {
    let Ok(text) = String::from_utf8(spell(bytes, VOCABULARY)) else { return };
    // Whatever it includes is looked for where nothing is.
    let name = Path::new("/nowhere/postern/postern.yaml");
    match Config::from_str(name, &text) {
        Ok(config) => {
            let written = config.to_effective_yaml();
            let again = Config::from_str(name, &written)
                .unwrap_or_else(|problems| panic!("{text:?} was taken; written out it is not:\n{written}\n{problems}"));
            assert!(again.same_as(&config), "{text:?} says something else when it is written out:\n{written}");
            assert_eq!(again.to_effective_yaml(), written);
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a problem: {text:?}");
            let shown = problems.to_string();
            assert!(!shown.trim().is_empty());
        }
    }
}
