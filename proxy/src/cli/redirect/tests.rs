use super::{PrintArgs, RedirectArgs, port_of_session, rules, wanted};
use crate::redirect::plan::tests::facts;
use crate::redirect::{Families, RedirectPlan};
use clap::Parser;

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
fn the_command_is_well_formed() {
    use clap::CommandFactory;
    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        arguments: RedirectArgs,
    }
    Whole::command().debug_assert();
}
