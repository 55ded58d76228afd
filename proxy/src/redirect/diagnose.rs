//! Why a packet filter did not take the rules: what its program printed, in words that say what to do.

/// What is wrong with the machine, as far as the program's words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// The kernel wants `CAP_NET_ADMIN` in the user namespace of this network namespace.
    Capability,
    /// The kernel does not know what a rule asks for.
    Module(String),
    /// The program does not know it.
    Extension(String),
    Other,
}

impl Diagnosis {
    pub fn fix(&self) -> String {
        match self {
            Self::Capability => {
                "give it CAP_NET_ADMIN (and CAP_NET_RAW for iptables-legacy): root, `docker run --cap-add \
                                 NET_ADMIN`, or an init container with `capabilities: { add: [NET_ADMIN, NET_RAW] }`"
                    .to_owned()
            }
            Self::Module(module) => {
                format!("load the kernel module on the host: `modprobe {module}`, and name it in /etc/modules-load.d/")
            }
            Self::Extension(extension) => {
                format!("this build of the program has no `{extension}`: install the distribution's whole package")
            }
            Self::Other => "see the program's words; `postern redirect print` shows what it was given".to_owned(),
        }
    }
}

/// What in a rule of nftables needs which module, the more special first.
const NFT_MODULES: &[(&str, &str)] = &[
    ("tproxy", "nft_tproxy"),
    ("redirect", "nft_redir"),
    ("fib ", "nft_fib_inet"),
    ("reject", "nft_reject_inet"),
    ("type nat", "nft_chain_nat"),
    ("ct ", "nft_ct"),
];

/// Words of `nft -f -`: each error is followed by the line it is about.
pub fn nft(stderr: &str) -> Diagnosis {
    if denied(stderr) {
        return Diagnosis::Capability;
    }
    let unknown = ["No such file or directory", "Operation not supported", "not supported", "does not exist"];
    if stderr.contains("cache initialization failed") || stderr.contains("Protocol not supported") {
        return Diagnosis::Module("nf_tables".to_owned());
    }
    if !unknown.iter().any(|words| stderr.contains(words)) {
        return Diagnosis::Other;
    }
    let needed = NFT_MODULES.iter().find(|(words, _)| stderr.contains(words));
    Diagnosis::Module(needed.map_or("nf_tables", |(_, module)| module).to_owned())
}

/// Words of `iptables-restore`, which at best names the line of `text` that failed.
pub fn iptables(stderr: &str, text: &str) -> Diagnosis {
    if denied(stderr) {
        return Diagnosis::Capability;
    }
    if let Some(table) = between(stderr, "table `", "'").or_else(|| between(stderr, "table '", "'"))
        && (stderr.contains("can't initialize") || stderr.contains("unable to initialize"))
    {
        let prefix = if stderr.contains("ip6tables") { "ip6table" } else { "iptable" };
        return Diagnosis::Module(format!("{prefix}_{table}"));
    }
    if let Some(extension) = between(stderr, "Couldn't load match `", "'")
        .or_else(|| between(stderr, "Couldn't load target `", "'"))
        .or_else(|| between(stderr, "unknown option \"--", "\""))
    {
        return Diagnosis::Extension(extension.to_owned());
    }
    if let Some(extension) = between(stderr, "Extension ", " revision") {
        return Diagnosis::Module(format!("xt_{extension}"));
    }
    let failed = between(stderr, "line ", " failed").and_then(|number| number.parse::<usize>().ok());
    let line = failed.and_then(|number| text.lines().nth(number.checked_sub(1)?));
    match line.and_then(extension_of) {
        Some(module) => Diagnosis::Module(module),
        None => Diagnosis::Other,
    }
}

/// The module that a line of iptables-save's notation needs most specially: its target, or else its last match.
fn extension_of(line: &str) -> Option<String> {
    let target = line.split_once(" -j ").and_then(|(_, rest)| rest.split(' ').next());
    let special = target.filter(|target| ["REDIRECT", "TPROXY", "CONNMARK", "MARK"].contains(target));
    if let Some(target) = special {
        return Some(format!("xt_{target}"));
    }
    let matched = line.rsplit_once(" -m ").and_then(|(_, rest)| rest.split(' ').next())?;
    Some(format!("xt_{matched}"))
}

fn denied(stderr: &str) -> bool {
    ["Operation not permitted", "Permission denied", "you must be root"].iter().any(|words| stderr.contains(words))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::{Diagnosis, iptables, nft};

    fn module(name: &str) -> Diagnosis {
        Diagnosis::Module(name.to_owned())
    }

    #[test]
    fn names_the_capability_or_the_module_from_nfts_words() {
        for (stderr, expected) in [
            ("/dev/stdin:1:1-20: Error: Could not process rule: Operation not permitted\n", Diagnosis::Capability),
            ("netlink: Error: cache initialization failed: Operation not permitted\n", Diagnosis::Capability),
            ("netlink: Error: cache initialization failed: Protocol not supported\n", module("nf_tables")),
            (
                "/dev/stdin:9:3-40: Error: Could not process rule: No such file or directory\n\t\tmeta l4proto tcp \
                 tproxy ip to :15006\n\t\t^^^^^^^\n",
                module("nft_tproxy"),
            ),
            (
                "/dev/stdin:4:3-9: Error: Could not process rule: Operation not supported\n\tchain outbound {\n\t\ttype \
                 nat hook output priority -101; policy accept;\n",
                module("nft_chain_nat"),
            ),
            ("/dev/stdin:2:1-1: Error: syntax error, unexpected newline\n", Diagnosis::Other),
        ] {
            assert_eq!(nft(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn names_the_capability_or_the_module_from_iptables_words() {
        let text = "*nat\n:POSTERN_OUTBOUND - [0:0]\n-A POSTERN_OUTBOUND -m owner --uid-owner 7 -j RETURN\n\
                    -A POSTERN_OUTBOUND -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
        for (stderr, expected) in [
            ("Fatal: can't open lock file /run/xtables.lock: Permission denied\n", Diagnosis::Capability),
            (
                "iptables-restore v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you \
                 need to insmod?)\n",
                module("iptable_nat"),
            ),
            (
                "ip6tables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\nip6tables: can't \
                 initialize ip6tables table `nat'\n",
                module("ip6table_nat"),
            ),
            (
                "iptables-legacy-restore: iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table \
                 'mangle'\n",
                module("iptable_mangle"),
            ),
            ("iptables-restore: line 3 failed\n", module("xt_owner")),
            ("iptables-nft-restore: line 4 failed\n", module("xt_REDIRECT")),
            ("Warning: Extension TPROXY revision 0 not supported, missing kernel module?\n", module("xt_TPROXY")),
            ("Couldn't load match `addrtype':No such file or directory\n", Diagnosis::Extension("addrtype".to_owned())),
            ("iptables-restore: line 99 failed\n", Diagnosis::Other),
        ] {
            assert_eq!(iptables(stderr, text), expected, "{stderr}");
        }
    }
}
