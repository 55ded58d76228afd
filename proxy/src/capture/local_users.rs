//! Which local users may use a service, as numbers: names are looked up when a configuration comes into force.

use postern_config::{Config, LocalUser, Place, Service};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Files only (passwd(5)): other sources of the user database would need the C library's help. Their users are named by
/// number.
const USER_DATABASE: &str = "/etc/passwd";

/// Who may use a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedUsers {
    All,
    Only(Arc<[u32]>),
}

impl AllowedUsers {
    /// `users` have been resolved.
    pub fn of(users: &[LocalUser]) -> Self {
        let numbers = users.iter().filter_map(|user| match user {
            LocalUser::Id(uid) => Some(*uid),
            LocalUser::Name(_) => None,
        });
        // Names are none of the numbers: a list of nothing but names would let nobody in, and not everybody.
        if users.is_empty() { Self::All } else { Self::Only(numbers.collect()) }
    }

    pub fn admits(&self, uid: u32) -> bool {
        match self {
            Self::All => true,
            Self::Only(users) => users.contains(&uid),
        }
    }

    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// A name of the file that stands for nobody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("{name:?} is not in /etc/passwd; write the user's number if another database has it")]
    Unknown { name: String },
    #[error("/etc/passwd cannot be read, where {name:?} would be looked up; write the user's number instead")]
    Database {
        name: String,
        #[source]
        source: std::io::Error,
    },
}

/// The service with numbers in place of its users' names.
///
/// # Errors
/// A name that the user database does not have.
pub fn resolved(service: &Service) -> Result<Cow<'_, Service>, UserError> {
    let Some(LocalUser::Name(first)) = service.users.iter().find(|user| matches!(user, LocalUser::Name(_))) else {
        return Ok(Cow::Borrowed(service));
    };
    let database = std::fs::read(Path::new(USER_DATABASE))
        .map_err(|source| UserError::Database { name: first.clone(), source })?;
    let database = String::from_utf8_lossy(&database);
    let users = service.users.iter().map(|user| match user {
        LocalUser::Id(uid) => Ok(LocalUser::Id(*uid)),
        LocalUser::Name(name) => {
            uid_of(&database, name).map(LocalUser::Id).ok_or_else(|| UserError::Unknown { name: name.clone() })
        }
    });
    Ok(Cow::Owned(Service { users: users.collect::<Result<_, _>>()?, ..service.clone() }))
}

/// A name of the file that this host's user database does not have. Elsewhere it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownUser {
    /// What names it, as in the file.
    pub named_by: String,
    /// `None`: whoever captures, not a service.
    pub place: Option<Place>,
    pub name: String,
}

/// All names of `config` that are not in the user database here.
///
/// # Errors
/// The database cannot be read, and would be asked.
pub fn unknown_users(config: &Config) -> std::io::Result<Vec<UnknownUser>> {
    // Whoever names nobody needs no database.
    if unknown_in(config, "").is_empty() {
        return Ok(Vec::new());
    }
    Ok(unknown_in(config, &String::from_utf8_lossy(&std::fs::read(USER_DATABASE)?)))
}

fn unknown_in(config: &Config, database: &str) -> Vec<UnknownUser> {
    let of_services = config.outbound.services.iter().flat_map(|service| {
        service.users.iter().filter_map(|user| match user {
            LocalUser::Id(_) => None,
            LocalUser::Name(name) => Some(UnknownUser {
                named_by: format!("`users` of service `{}`", service.name),
                place: Some(service.place.clone()),
                name: name.clone(),
            }),
        })
    });
    let exempt = config.capture.iter().flat_map(|capture| &capture.redirect.exempt_users);
    let exempt = exempt.filter(|user| user.parse::<u32>().is_err()).map(|name| UnknownUser {
        named_by: "`capture.redirect.exempt_users`".to_owned(),
        place: None,
        name: name.clone(),
    });
    of_services.chain(exempt).filter(|user| uid_of(database, &user.name).is_none()).collect()
}

/// passwd(5): `name:password:UID:…`; the first line with the name counts.
fn uid_of(database: &str, name: &str) -> Option<u32> {
    let mut lines = database.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()))?
}

#[cfg(test)]
mod tests {
    use super::{AllowedUsers, uid_of, unknown_in};
    use postern_config::{Config, LocalUser};
    use std::path::Path;

    #[test]
    fn finds_names_in_a_user_database() {
        let database =
            "root:x:0:0:root:/root:/bin/sh\n# a note\nweb:x:1000:1000::/:\nweb:x:7:7::/:\nbad:x:many::\nodd\n";
        for (name, expected) in [
            ("root", Some(0)),
            ("web", Some(1000)),
            ("we", None),
            ("bad", None),
            ("odd", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(uid_of(database, name), expected, "{name}");
        }
    }

    #[test]
    fn tells_names_that_stand_for_nobody_here() {
        let text = "outbound:\n  services:\n  - name: a\n    listen: 127.0.0.1:1\n    endpoints: [\"10.0.0.7:1\"]\n    \
                    identity: spiffe://td/a\n    users: [root, shop, 7]\ncapture:\n  outbound: 15001\n  redirect: { \
                    exempt_users: [root, postren, 1337] }\n";
        let config = Config::from_str(Path::new("f"), text).unwrap_or_else(|problems| panic!("{problems}"));
        let told: Vec<String> = unknown_in(&config, "root:x:0:0::/:\n")
            .into_iter()
            .map(|user| {
                let place = user.place.map_or_else(String::new, |place| place.to_string());
                format!("{place} {} {}", user.named_by, user.name)
            })
            .collect();
        assert_eq!(told, ["f:3:5 `users` of service `a` shop", " `capture.redirect.exempt_users` postren"]);
    }

    #[test]
    fn an_empty_list_lets_all_in_and_unresolved_names_nobody() {
        for (users, uid, admitted) in [
            (vec![], 5, true),
            (vec![LocalUser::Id(5)], 5, true),
            (vec![LocalUser::Id(5)], 6, false),
            (vec![LocalUser::Name("web".to_owned())], 5, false),
            (vec![LocalUser::Name("web".to_owned()), LocalUser::Id(5)], 5, true),
        ] {
            assert_eq!(AllowedUsers::of(&users).admits(uid), admitted, "{users:?}");
        }
    }
}
