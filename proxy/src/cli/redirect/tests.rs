use super::{PrintArgs, RedirectArgs, check, port_of_session, rules, wanted};
use crate::cli::doctor::Report;
use crate::redirect::plan::tests::facts;
use crate::redirect::proc::Socket;
use crate::redirect::{Families, RedirectPlan, Wanted};
use clap::Parser;
use postern_config::Config;
use std::path::Path;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    print: PrintArgs,
}

fn read(flags: &[&str]) -> anyhow::Result<RedirectPlan> {
    let command = Command::try_parse_from([&["print"], flags].concat())?;
    Ok(RedirectPlan::new(&wanted(&command.print.wanted)?, facts(Families::Both))?)
}

#[test]
fn flags_alone_suffice() {
    let plan = read(&["--exempt-user", "1337"]).unwrap();
    assert_eq!((plan.inbound, plan.outbound), (Some(15006), Some(15001)));
    assert_eq!(plan.own_ports, [15001, 15006, 15020, 15021]);
    let plan = read(&["--exempt-user", "7", "--outbound-port", "9001", "--exclude-outbound-port", "25,26"]).unwrap();
    assert_eq!((plan.inbound, plan.outbound, plan.outbound_left_alone), (None, Some(9001), vec![25, 26, 53]));
}

#[test]
fn flags_add_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postern.yaml");
    let text = "capture:\n  inbound: 15006\n  redirect: { exempt_users: 1337, exclude_inbound_ports: 22 }\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let flags = ["--config", file, "--exclude-inbound-port", "9100", "--mode", "tproxy", "--exempt-user", "7"];
    let plan = read(&flags).unwrap();
    assert!(plan.diverts() && plan.outbound.is_none());
    assert!(!plan.captures_inbound(22) && !plan.captures_inbound(9100) && plan.captures_inbound(80));
    assert_eq!(plan.exempt_uids, [7, 1337]);
    std::fs::write(file, "workers: 1\n").unwrap();
    assert!(read(&["--config", file, "--exempt-user", "7"]).unwrap_err().to_string().contains("no `capture:`"));
    assert!(read(&["--config", file, "--exempt-user", "7", "--outbound-port", "15001"]).is_ok());
}

#[test]
fn flags_are_checked_as_the_file_is() {
    for flags in [
        ["--exclude-interface", "eth0;drop"],
        ["--exclude-network", "10.0.0.1/8"],
        ["--inbound-port", "0"],
        ["--exempt-user", "nobody-of-that-name"],
    ] {
        assert!(read(&[&flags[..], &["--outbound-port", "1"]].concat()).is_err(), "{flags:?}");
    }
}

#[test]
fn prints_what_is_installed_and_the_routes() {
    let plan = read(&["--exempt-user", "1337", "--mode", "tproxy"]).unwrap();
    let text = rules(&plan, super::BackendChoice::Auto);
    assert!(text.contains("table inet postern {") && text.contains("# ip -6 rule add pref 20560"), "{text}");
    let text = rules(&plan, super::BackendChoice::Iptables);
    assert!(text.contains("# ip6tables-restore --noflush\n*mangle"), "{text}");
}

#[test]
fn knows_by_which_port_a_session_came_in() {
    assert_eq!(port_of_session("192.0.2.7 50000 192.0.2.8 22"), Some(22));
    assert_eq!(port_of_session("nonsense"), None);
}

#[test]
fn an_application_that_is_exempt_itself_is_named() {
    let text = "inbound: [{ port: 8080, app: \"[::1]:8080\", allow: [{ spiffe: \"spiffe://td/a\" }] }]\n\
                capture: { inbound: 15006, redirect: { exempt_users: 1337 } }\n";
    let config = Config::from_str(Path::new("f"), text).unwrap();
    let wanted = Wanted::of_file(&config).unwrap();
    let plan = RedirectPlan::new(&wanted, facts(Families::Both)).unwrap();
    for (address, uid, expected) in [
        ("[::1]:8080", 1337, true),
        ("[::]:8080", 1337, true),
        ("[::1]:8080", 1000, false),
        ("127.0.0.1:8080", 1337, false),
        ("0.0.0.0:15006", 1337, false),
    ] {
        let mut report = Report::default();
        let socket = Socket { address: address.parse().unwrap(), uid, inode: 0 };
        check::application(&mut report, &plan, &wanted, &[socket]);
        let told = report.render().contains("[::1]:8080 is held by a process, uid 1337, and that user is exempt");
        assert_eq!(told, expected, "{address} of {uid}");
    }
}

#[test]
fn flags_name_nameservers_on_loopback() {
    let flags = ["--exempt-user", "1337", "--dns-port", "15053"];
    let plan = read(&[&flags[..], &["--loopback-nameserver", "127.0.0.53,::1", "--resolver-user", "101"]].concat());
    let names = plan.unwrap().names.unwrap();
    assert_eq!((names.port, names.loopback.len(), names.resolvers), (15053, 2, vec![101]));
    assert!(read(&[&flags[..], &["--loopback-nameserver", "10.0.0.2"]].concat()).is_err());
    let without = read(&["--exempt-user", "1337", "--resolver-user", "101"]).unwrap_err().to_string();
    assert!(without.contains("name queries are not captured"), "{without}");
}

#[test]
fn the_command_is_well_formed() {
    use clap::CommandFactory;
    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        arguments: RedirectArgs,
    }
    Whole::command().debug_assert();
}
