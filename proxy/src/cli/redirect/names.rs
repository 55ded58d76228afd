//! What becomes of queries to nameservers on loopback, for `print`, `install` and `check`.

use crate::cli::doctor::Report;
use crate::redirect::names::{holders, of_system};
use crate::redirect::proc::{self, Socket};
use crate::redirect::{Family, Names, RedirectPlan};
use postern_config::capture::dns::is_ourselves;
use std::net::{IpAddr, SocketAddr};

const SUBJECT: &str = "names";
const DNS_PORT: u16 = 53;

/// Above the rules, because who is left alone by them was found on this machine, and now.
pub(super) fn comments(plan: &RedirectPlan, passwd: &str) -> String {
    let Some(names) = plan.names.as_ref().filter(|names| !names.loopback.is_empty()) else { return String::new() };
    let captured = format!("# name queries to {} are captured", addresses(&names.loopback));
    match names.resolvers.as_slice() {
        [] => format!("{captured}; nobody was found who answers them there\n"),
        resolvers => format!("{captured}; those of {} to other hosts are left alone\n", users(resolvers, passwd)),
    }
}

/// Whether the nameservers that the application asks are captured, and nobody is asked in a circle.
pub(super) fn examine(report: &mut Report, plan: &RedirectPlan) {
    let Some(names) = &plan.names else { return };
    let (resolv_conf, nsswitch) = (proc::resolv_conf(), proc::name_services());
    judge(report, plan, names, &Surroundings { resolv_conf, nsswitch, nameservers: proc::nameservers() });
}

struct Surroundings {
    resolv_conf: String,
    nsswitch: String,
    nameservers: Vec<Socket>,
}

fn judge(report: &mut Report, plan: &RedirectPlan, names: &Names, surroundings: &Surroundings) {
    for ip in of_system(&surroundings.resolv_conf) {
        if !names.loopback.contains(&ip) && !is_ourselves(SocketAddr::new(ip, DNS_PORT), names.port) {
            report.fail(
                SUBJECT,
                format!("the nameserver {ip} of /etc/resolv.conf is not captured: names go past Postern"),
                "add it to `capture.dns.loopback_nameservers`, or leave that key out",
            );
        }
    }
    for ip in &names.loopback {
        let holders = holders(*ip, &surroundings.nameservers);
        let asks_in_circles =
            holders.iter().find(|uid| !names.resolvers.contains(uid) && !plan.exempt_uids.contains(uid));
        if holders.is_empty() && names.resolvers.is_empty() {
            report.warn(
                SUBJECT,
                format!("nobody answers at the nameserver {ip}, so whose own queries must be left alone is not known"),
                "start it before `postern redirect install`, or name its user in `capture.dns.resolver_users`",
            );
        } else if let Some(uid) = asks_in_circles {
            report.fail(
                SUBJECT,
                format!("the nameserver {ip} runs as uid {uid}, whose own queries are captured: it asks in a circle"),
                "add that user to `capture.dns.resolver_users`, or leave that key out",
            );
        } else {
            report.ok(SUBJECT, format!("queries to {ip} are captured, and who answers there asks others by itself"));
        }
    }
    if asks_without_queries(&surroundings.nsswitch) {
        report.warn(
            SUBJECT,
            "/etc/nsswitch.conf has `resolve` for `hosts`: programs ask systemd-resolved by its own protocol, which no \
             rule captures",
            format!(
                "remove `resolve` there, or let systemd-resolved ask Postern: `DNS=127.0.0.1:{}` in resolved.conf, and the \
                 true nameservers as `capture.dns.upstreams`",
                names.port
            ),
        );
    }
}

/// Rules that were installed when the system asked somebody else.
pub(super) fn installed(report: &mut Report, plan: &RedirectPlan, families: &[Family], listing: &str, fix: &str) {
    let Some(names) = &plan.names else { return };
    let captures = |line: &str, ip: &str| line.contains("dport 53 ") && line.split([' ', '/']).any(|word| word == ip);
    let expected = families.iter().flat_map(|family| names.of_family(*family));
    for ip in expected.filter(|ip| !listing.lines().any(|line| captures(line, &ip.to_string()))) {
        report.fail(SUBJECT, format!("the nameserver {ip} is not captured by the rules that are installed"), fix);
    }
}

/// `hosts: … resolve …`, nsswitch.conf(5): nss-resolve speaks Varlink, not DNS.
fn asks_without_queries(nsswitch: &str) -> bool {
    let mut databases = nsswitch.lines().filter_map(|line| line.trim().strip_prefix("hosts:"));
    databases.any(|services| services.split_ascii_whitespace().any(|service| service == "resolve"))
}

fn addresses(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
}

fn users(uids: &[u32], passwd: &str) -> String {
    // `name:password:uid:…`, passwd(5).
    let name = |uid: u32| {
        let mut lines = passwd.lines().map(|line| line.split(':'));
        lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    };
    let shown = |uid: &u32| name(*uid).map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"));
    uids.iter().map(shown).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::{Surroundings, comments, installed, judge};
    use crate::cli::doctor::Report;
    use crate::redirect::plan::tests::full;
    use crate::redirect::proc::Socket;
    use crate::redirect::{Families, Family, Names, RedirectPlan, iptables, nft};

    /// Captures 127.0.0.53, and leaves alone uid 101.
    fn plan() -> RedirectPlan {
        let names = Names { port: 15053, loopback: vec!["127.0.0.53".parse().unwrap()], resolvers: vec![101] };
        RedirectPlan { names: Some(names), ..full(Families::V4) }
    }

    fn judged(plan: &RedirectPlan, nameserver: &str, uid: Option<u32>, nsswitch: &str) -> String {
        let address = "127.0.0.53:53".parse().unwrap();
        let surroundings = Surroundings {
            resolv_conf: format!("nameserver {nameserver}\n"),
            nsswitch: nsswitch.to_owned(),
            nameservers: uid.map(|uid| Socket { address, uid, inode: 0 }).into_iter().collect(),
        };
        let mut report = Report::default();
        judge(&mut report, plan, plan.names.as_ref().unwrap(), &surroundings);
        report.render()
    }

    #[test]
    fn what_is_asked_and_not_captured_is_named() {
        let unknown =
            RedirectPlan { names: plan().names.map(|names| Names { resolvers: Vec::new(), ..names }), ..plan() };
        for (plan, nameserver, uid, nsswitch, expected) in [
            (plan(), "127.0.0.53", Some(101), "hosts: files dns", "queries to 127.0.0.53 are captured"),
            (plan(), "127.0.0.11", Some(101), "", "the nameserver 127.0.0.11 of /etc/resolv.conf is not captured"),
            (plan(), "127.0.0.53", Some(102), "", "runs as uid 102, whose own queries are captured"),
            (plan(), "127.0.0.53", None, "", "are captured, and who answers there"),
            (plan(), "127.0.0.53", Some(77), "", "are captured, and who answers there"),
            (unknown.clone(), "127.0.0.53", None, "", "nobody answers at the nameserver 127.0.0.53"),
            (unknown, "127.0.0.53", Some(0), "", "runs as uid 0, whose own queries are captured"),
            (plan(), "127.0.0.53", Some(101), "hosts:\tfiles resolve [!UNAVAIL=return] dns", "by its own protocol"),
        ] {
            let shown = judged(&plan, nameserver, uid, nsswitch);
            assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
        }
        assert!(!judged(&plan(), "10.0.0.1", Some(101), "hosts: files dns").contains("fix:"));
    }

    #[test]
    fn rules_of_before_are_told_from_those_that_capture_it() {
        let of =
            |ip: &str, resolver| Names { port: 15053, loopback: vec![ip.parse().unwrap()], resolvers: vec![resolver] };
        let both = RedirectPlan { families: Families::Both, ..plan() };
        for (wanted, found, expected) in [
            (of("127.0.0.53", 101), of("127.0.0.53", 101), false),
            // Another user is another fault.
            (of("127.0.0.53", 101), of("127.0.0.53", 102), false),
            (of("127.0.0.53", 101), of("127.0.0.5", 101), true),
            // Other rules have that address, too.
            (of("::1", 101), of("127.0.0.53", 101), true),
            (of("::1", 101), of("::1", 101), false),
        ] {
            let with = |names| RedirectPlan { names: Some(names), ..both.clone() };
            let address = wanted.loopback[0];
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            let (wanted, found) = (with(wanted), with(found));
            for listing in [nft::render(&found, "inet"), iptables::install(&found, family, "")] {
                let mut report = Report::default();
                installed(&mut report, &wanted, &[family], &listing, "again");
                let told = report.render().contains(&format!("the nameserver {address} is not captured"));
                assert_eq!(told, expected, "{address} in\n{listing}");
            }
        }
    }

    #[test]
    fn who_is_left_alone_is_said_by_name() {
        let passwd = "root:x:0:0::/:/bin/sh\nsystemd-resolve:x:101:101::/:/bin/false\n";
        let expected = "# name queries to 127.0.0.53 are captured; those of systemd-resolve (uid 101) to other hosts are left alone\n";
        assert_eq!(comments(&plan(), passwd), expected);
        assert!(comments(&plan(), "").contains("those of uid 101 to"));
        assert_eq!(comments(&RedirectPlan { names: None, ..plan() }, passwd), "");
    }
}
