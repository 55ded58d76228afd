use super::{PathProblem, Step, read_path};
use proptest::prelude::*;

fn check(path: &str, readings: &[&str]) {
    let read = read_path(path, false).unwrap_or_else(|problem| panic!("{path}: {problem}"));
    assert_eq!(read.iter().collect::<Vec<_>>(), readings, "{path}");
}

fn check_refused(path: &str, problem: PathProblem) {
    assert_eq!(read_path(path, false), Err(problem), "{path}");
}

#[test]
fn reads_a_plain_path_once_and_without_allocation() {
    for path in ["/", "/orders", "/orders/", "/a.b/c..d/e", "/a:b@c!$&'()*+,=~_-", "/v1/*/secret", "/{id}"] {
        check(path, &[path]);
        assert_eq!(read_path(path, false).map(|readings| readings.further.capacity()), Ok(0));
    }
}

#[test]
fn pn01_removes_dot_segments() {
    check("/public/../admin", &["/public/../admin", "/admin"]);
    check("/public/./../admin", &["/public/./../admin", "/admin"]);
    check("/admin/.", &["/admin/.", "/admin/"]);
    check("/admin/x/..", &["/admin/x/..", "/admin/"]);
    check("/..admin/.x", &["/..admin/.x"]);
    check("/a/.../b", &["/a/.../b"]);
}

#[test]
fn pn02_decodes_once_then_removes_dots() {
    check("/public/%2e%2e/admin", &["/public/%2e%2e/admin", "/admin"]);
    check("/public/.%2E/admin", &["/public/.%2E/admin", "/admin"]);
    check("/%61dmin", &["/%61dmin", "/admin"]);
    // A reader that removes dots without decoding, and one that decodes first.
    check("/a/%61/%2e%2e/../b", &["/a/%61/%2e%2e/../b", "/a/%61/b", "/b", "/a/a/b"]);
    // And one that does both: what was one segment when it was removed has been two to the others.
    let read = read_path("/public/a%2fb/..//..%2fx", false).expect("it has honest readings");
    assert!(read.any(|path| path == "/x"), "{read:?}");
}

#[test]
fn pn03_merges_slashes_before_and_after_dots() {
    check("//admin", &["//admin", "/admin"]);
    check("/admin//", &["/admin//", "/admin/"]);
    check("///admin/x", &["///admin/x", "/admin/x"]);
    check("/public//../admin", &["/public//../admin", "/public/admin", "/admin"]);
    check("/app//../admin", &["/app//../admin", "/app/admin", "/admin"]);
    check_refused("/app//../../admin", PathProblem::AboveRoot);
}

#[test]
fn pn04_reads_an_encoded_slash_as_data_and_as_separator() {
    check("/files/a%2fb", &["/files/a%2fb", "/files/a%2Fb", "/files/a/b"]);
    check("/files/a%2Fb", &["/files/a%2Fb", "/files/a/b"]);
    check("/public%2f..%2fadmin", &["/public%2f..%2fadmin", "/public%2F..%2Fadmin", "/admin"]);
    check("/%2Fadmin", &["/%2Fadmin", "//admin", "/admin"]);
    check("/admin%2f", &["/admin%2f", "/admin%2F", "/admin/"]);
    check_refused("/%2e%2e%2fadmin", PathProblem::AboveRoot);
}

#[test]
fn pn05_refuses_backslashes() {
    for path in ["/public\\..\\admin", "/\\admin", "/public%5c..%5cadmin", "/%5C"] {
        check_refused(path, PathProblem::Backslash);
    }
}

#[test]
fn pn06_reads_parameters_with_and_without() {
    check("/admin;a=b", &["/admin;a=b", "/admin"]);
    check("/admin;/x", &["/admin;/x", "/admin/x"]);
    check("/public;/../admin", &["/public;/../admin", "/admin"]);
    check("/a;x=1/admin", &["/a;x=1/admin", "/a/admin"]);
    check("/public/..;/admin", &["/public/..;/admin", "/admin"]);
    check("/admin%3Ba=b", &["/admin%3Ba=b", "/admin;a=b", "/admin"]);
    check_refused("/..;/admin", PathProblem::AboveRoot);
    check_refused("/%2e%2e;a/admin", PathProblem::AboveRoot);
    // The parameter's `%2F`: Tomcat has taken it off before it decodes, others decode first.
    let read = read_path("/public;%2fx/admin", false).expect("it has honest readings");
    assert!(read.any(|path| path == "/public/admin") && read.any(|path| path == "/public/x/admin"));
}

#[test]
fn pn07_refuses_raw_delimiters_and_keeps_encoded_ones_as_data() {
    check_refused("/admin#x", PathProblem::Delimiter);
    check_refused("/admin?x", PathProblem::Delimiter);
    check("/admin%23x%3fy", &["/admin%23x%3fy", "/admin%23x%3Fy"]);
}

#[test]
fn pn08_refuses_controls() {
    for path in
        ["/admin%00", "/public/%00/../admin", "/a\0", "/a%0d%0aX:y", "/%7f", "/a\tb", "/a b", "/a%1F", "/\u{7f}"]
    {
        check_refused(path, PathProblem::Control);
    }
    check("/a%20b", &["/a%20b"]);
}

#[test]
fn pn08_every_percent_code_is_read_or_refused() {
    for byte in 0..=0xFF_u8 {
        let path = format!("/a%{byte:02x}b");
        let problem = match byte {
            0..0x20 | 0x7F => Some(PathProblem::Control),
            b'\\' => Some(PathProblem::Backslash),
            0x80.. => Some(PathProblem::NotUtf8),
            _ => None,
        };
        assert_eq!(read_path(&path, false).err(), problem, "{path}");
    }
}

#[test]
fn pn09_decodes_exactly_once() {
    for path in ["/public/%252e%252e/admin", "/%252e%252e%252fadmin", "/admin%252f", "/%25252e"] {
        check(path, &[path]);
    }
}

/// Who decodes leaves `%2F` as it is or does not, and never decodes what is left a second time.
#[test]
fn pn09_no_reading_is_decoded_in_two_steps() {
    check("/a%2fb/x%2fy/%2e%2e/c", &["/a%2fb/x%2fy/%2e%2e/c", "/a%2Fb/c", "/a/b/x/c"]);
}

#[test]
fn a_route_may_permit_two_problems_and_no_other() {
    for problem in [
        PathProblem::NotAbsolute,
        PathProblem::Control,
        PathProblem::Backslash,
        PathProblem::Delimiter,
        PathProblem::PercentCode,
        PathProblem::NonAscii,
        PathProblem::NotUtf8,
        PathProblem::AboveRoot,
    ] {
        let expected = problem == PathProblem::PercentCode || problem == PathProblem::NonAscii;
        assert_eq!(problem.is_lax(), expected, "{problem:?}");
    }
}

/// Else a path with a colon, of which there are many, would cost as much as one with codes.
#[test]
fn only_what_readers_disagree_about_is_read_in_several_ways() {
    for (path, encoded, parameters) in [
        ("/a:b/c", false, false),
        ("/café", false, false),
        ("/a%41", true, false),
        ("/100%", true, false),
        ("/a%25", true, false),
        ("/a;b", false, true),
        ("/a%3Bb", true, true),
    ] {
        let features = super::scan(path, true).expect("lax");
        assert_eq!((features.encoded, features.parameters), (encoded, parameters), "{path}");
    }
    for (path, expected) in [("/a/b.c:d/", false), ("/a//b", true), ("/a/.b", true), ("/a/../b", true)] {
        assert_eq!(super::is_unresolved(path), expected, "{path}");
    }
}

#[test]
fn pn10_refuses_overlong_and_other_bad_utf8() {
    for path in ["/%c0%ae%c0%ae/admin", "/%c1%9cadmin", "/%e0%80%afadmin", "/caf%E9", "/%ff"] {
        check_refused(path, PathProblem::NotUtf8);
        assert_eq!(read_path(path, true), Err(PathProblem::NotUtf8), "lax permits two things, and not this");
    }
    check("/caf%C3%A9", &["/caf%C3%A9", "/café"]);
    check_refused("/caf%C3;%A9", PathProblem::NotUtf8);
}

#[test]
fn pn16_refuses_what_is_not_absolute() {
    for path in ["", "Svc/Method", "*", "*/x", "http://evil/admin"] {
        check_refused(path, PathProblem::NotAbsolute);
    }
}

#[test]
fn pn20_refuses_broken_percent_codes_unless_lax() {
    for path in ["/a%zz", "/a%", "/a%2", "/a%u0041", "/%%41"] {
        check_refused(path, PathProblem::PercentCode);
        assert!(PathProblem::PercentCode.is_lax());
        assert!(read_path(path, true).is_ok());
    }
    let read = read_path("/100%", true).expect("lax");
    assert_eq!(read.iter().collect::<Vec<_>>(), ["/100%", "/100%25"], "as whoever writes it anew has it");
    let read = read_path("/100%/%2e%2e/%%32e", true).expect("lax");
    assert!(read.any(|path| path == "/%252e"), "a stray `%` is data, also before what looks like a code: {read:?}");
}

#[test]
fn refuses_raw_non_ascii_unless_lax() {
    check_refused("/café", PathProblem::NonAscii);
    let read = read_path("/café", true).expect("lax");
    assert_eq!(read.iter().collect::<Vec<_>>(), ["/café"]);
    let read = read_path("/café%41é", true).expect("lax");
    assert_eq!(read.iter().collect::<Vec<_>>(), ["/café%41é", "/caféAé"]);
    assert_eq!(read_path("/café/../..", true), Err(PathProblem::AboveRoot));
    assert_eq!(read_path("/caf\u{e9}\\", true), Err(PathProblem::Backslash));
}

#[test]
fn refuses_paths_above_the_root() {
    for path in ["/..", "/../admin", "/a/../..", "/a/../../b", "/%2e%2e", "/a/%2e%2e/.."] {
        check_refused(path, PathProblem::AboveRoot);
    }
}

#[test]
fn pn25_long_paths_come_to_an_end() {
    // A reader that takes quadratic time takes hours for these.
    for piece in ["/a/..", "//", "/%2e", "/a;%2f//.", "/%2e%2e/a%2f"] {
        let path = format!("/x{}", piece.repeat(4 * 1024 * 1024 / piece.len()));
        let _ = read_path(&path, false);
    }
}

#[test]
fn owned_readings_are_the_same() {
    let read = read_path("/a/%2e%2e/b", false).expect("it has honest readings");
    assert_eq!(read.clone().into_owned(), read);
}

fn messy_path() -> impl Strategy<Value = String> {
    let pieces =
        ["a", "admin", ".", "..", "%2e", "%2E", "%2f", "%2F", "/", "//", ";", "%3b", ";x=1", "%25", "%61", "%20", "é"];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..16)
        .prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_panics_and_never_changes_the_raw_path(path in ".{0,40}", lax: bool) {
        if let Ok(read) = read_path(&path, lax) {
            prop_assert_eq!(read.raw(), &path);
        }
    }

    #[test]
    fn no_further_reading_has_dot_segments(path in messy_path(), lax: bool) {
        if let Ok(read) = read_path(&path, lax) {
            for reading in read.iter().skip(1) {
                prop_assert!(reading.starts_with('/'));
                prop_assert!(!reading.split('/').any(|segment| segment == "." || segment == ".."), "{} of {}", reading, path);
            }
        }
    }

    #[test]
    fn the_fully_resolved_reading_is_a_fixed_point(path in messy_path(), lax: bool) {
        if let Ok(read) = read_path(&path, lax) {
            let steps = [Step::Decode, Step::StripParameters, Step::MergeSlashes, Step::RemoveDots];
            let resolved = steps.iter().try_fold(path.clone(), |text, step| step.take(&text).map(|next| next.into_owned()));
            let resolved = resolved.map_err(|problem| TestCaseError::fail(problem.to_string()))?;
            prop_assert!(read.any(|reading| reading == resolved), "{} of {}", resolved, path);
            let again = read_path(&resolved, true).map_err(|problem| TestCaseError::fail(problem.to_string()))?;
            prop_assert_eq!(again.iter().collect::<Vec<_>>(), [resolved.as_str()]);
        }
    }
}

#[test]
fn a_plain_path_is_read_as_every_path_is() {
    const SIGNS: &[u8] = b"/.aZ0-_~=,+@;%2\\ \x7f!";
    let (mut paths, mut plain) = (vec![String::new()], 0);
    for _ in 0..4 {
        let longer =
            |path: &String| SIGNS.iter().map(|sign| format!("{path}{}", char::from(*sign))).collect::<Vec<_>>();
        let next: Vec<_> = paths.iter().flat_map(longer).collect();
        for path in next.iter().filter(|path| super::is_plain(path)) {
            plain += 1;
            for lax in [false, true] {
                assert_eq!(super::read_path(path, lax), super::read_every_way(path, lax), "{path}");
            }
        }
        paths = next;
    }
    assert!(plain > 1000, "{plain}");
}
