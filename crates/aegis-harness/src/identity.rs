//! Who a process runs as: `--user` against the guest's `/etc/passwd` and `/etc/group`.
//!
//! Both files come from an image, so their contents are anybody's: bad lines are skipped.

use aegis_sys::child::Identity;
use thiserror::Error;

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Numbers.
    pub identity: Identity,
    /// Home directory, `/` if unknown.
    pub home: String,
    /// Name, or the number if it has none.
    pub name: String,
}

/// The user or group does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownUser {
    /// No such user.
    #[error("no user {0:?} in the guest's /etc/passwd")]
    User(String),
    /// No such group.
    #[error("no group {0:?} in the guest's /etc/group")]
    Group(String),
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { return None };
        Some((*name, gid.parse().ok()?, *members))
    })
}

/// Resolves `NAME`, `UID`, `NAME:GROUP`, … A number need not have an entry; a name must.
///
/// # Errors
/// [`UnknownUser`].
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<User, UnknownUser> {
    let (who, wanted_group) = match user.split_once(':') {
        Some((who, wanted)) => (who, Some(wanted)),
        None => (user, None),
    };
    let number: Option<u32> = who.parse().ok();
    let account = accounts(passwd).find(|account| account.name == who || Some(account.uid) == number);
    let (uid, own_gid, name, home) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid, account.name, account.home),
        (None, Some(uid)) => (uid, 0, who, "/"),
        (None, None) => return Err(UnknownUser::User(who.to_owned())),
    };
    let gid = match wanted_group {
        None => own_gid,
        Some(wanted) => groups(group)
            .find(|(group_name, _, _)| *group_name == wanted)
            .map(|(_, gid, _)| gid)
            .or_else(|| wanted.parse().ok())
            .ok_or_else(|| UnknownUser::Group(wanted.to_owned()))?,
    };
    let member_of = groups(group).filter(|(_, _, members)| members.split(',').any(|member| member == name));
    let supplementary =
        if account.is_some() { member_of.map(|(_, gid, _)| gid).take(64).collect() } else { vec![] };
    let home = if home.is_empty() { "/" } else { home };
    Ok(User {
        identity: Identity { uid, gid, groups: supplementary },
        home: home.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nann:x:1000:\nwheel:x:10:ann,bob\n";

    #[test]
    fn names_numbers_and_groups_are_found() {
        let ann = resolve("ann", PASSWD, GROUP).unwrap();
        assert_eq!(ann.identity, Identity { uid: 1000, gid: 1000, groups: vec![10] });
        assert_eq!(ann.home, "/home/ann");
        assert_eq!(resolve("1000", PASSWD, GROUP).unwrap(), ann);
        assert_eq!(resolve("ann:wheel", PASSWD, GROUP).unwrap().identity.gid, 10);
        assert_eq!(
            resolve("4242:77", PASSWD, GROUP).unwrap().identity,
            Identity { uid: 4242, gid: 77, groups: vec![] }
        );
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(resolve("eve", PASSWD, GROUP), Err(UnknownUser::User("eve".into())));
        assert_eq!(resolve("ann:nobody", PASSWD, GROUP), Err(UnknownUser::Group("nobody".into())));
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(user in ".{0,12}", passwd in "[a-z0-9:,\n]{0,200}", group in "[a-z0-9:,\n]{0,200}") {
            drop(resolve(&user, &passwd, &group));
        }
    }
}
