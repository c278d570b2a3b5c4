//! Who a process runs as: `--user` against the guest's `/etc/passwd` and `/etc/group`.
//!
//! Both files come from an image, so their contents are anybody's, or there are none: bad lines are skipped, and `root` is
//! number 0 whatever they say.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

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

/// The one user and group that every system has.
const ROOT: &str = "root";
/// Longest account file that is read, bytes.
const MOST_READ: u64 = 4 << 20;

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
        let home = rest.get(1).copied().unwrap_or_default();
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
        Some((*name, gid.parse().ok()?, rest.first().copied().unwrap_or_default()))
    })
}

/// A guest's account file; what is missing, or no file, is empty.
#[must_use]
pub fn account_file(path: &str) -> String {
    let mut bytes = Vec::new();
    // Whoever opens a pipe would wait for its other end.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    if let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path)
        && file.metadata().is_ok_and(|meta| meta.is_file())
    {
        let _part = file.take(MOST_READ).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resolves `NAME`, `UID`, `NAME:GROUP`, … A number need not have an entry; a name must. An empty half is as if it were not
/// there: `:GROUP` is root in another group.
///
/// # Errors
/// [`UnknownUser`].
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<User, UnknownUser> {
    let (who, wanted_group) = match user.split_once(':') {
        Some((who, wanted)) => {
            (if who.is_empty() { ROOT } else { who }, Some(wanted).filter(|text| !text.is_empty()))
        }
        None => (user, None),
    };
    let number: Option<u32> = if who == ROOT { Some(0) } else { who.parse().ok() };
    let named = |account: &Account<'_>| account.name == who && (who != ROOT || account.uid == 0);
    let account = accounts(passwd)
        .find(|account| named(account))
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
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
            .or_else(|| if wanted == ROOT { Some(0) } else { wanted.parse().ok() })
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
    fn an_empty_half_is_as_if_it_were_not_there() {
        let found = |user: &str| resolve(user, PASSWD, GROUP).unwrap();
        assert_eq!(found("ann:"), found("ann"));
        assert_eq!(found("1000:"), found("1000"));
        assert_eq!(found("4242:").identity, Identity { uid: 4242, gid: 0, groups: vec![] });
        assert_eq!((found(":1000").identity.uid, found(":1000").identity.gid), (0, 1000));
        assert_eq!((found(":wheel").identity.gid, found(":wheel").home.as_str()), (10, "/root"));
        assert_eq!(found(":"), found("root"));
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(resolve("eve", PASSWD, GROUP), Err(UnknownUser::User("eve".into())));
        assert_eq!(resolve("ann:nobody", PASSWD, GROUP), Err(UnknownUser::Group("nobody".into())));
        assert_eq!(resolve("", PASSWD, GROUP), Err(UnknownUser::User(String::new())));
    }

    #[test]
    fn root_is_number_0_whatever_the_files_say() {
        let root = |user: &str, passwd: &str| resolve(user, passwd, "").unwrap();
        for user in ["root", "0", "root:root", "0:0"] {
            let found = root(user, "");
            assert_eq!(found.identity, Identity { uid: 0, gid: 0, groups: vec![] }, "{user}");
            assert_eq!(found.home, "/");
        }
        assert_eq!(root("root", "root:x:7:7::/root:").identity.uid, 0);
        assert_eq!(root("root", "toor:x:0:0::/toor:\nroot:x:0:0::/root:").home, "/root");
        assert_eq!(root("root", PASSWD).home, "/root");
    }

    #[test]
    fn short_lines_and_other_encodings_are_read() {
        assert_eq!(resolve("ann", "ann:x:5:6", "").unwrap().home, "/");
        assert_eq!(resolve("ann:staff", "ann:x:5:6", "staff:x:7").unwrap().identity.gid, 7);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"j\xf6rg:x:8:8::/:\nann:x:5:6::/home/ann:\n").unwrap();
        let text = account_file(file.path().to_str().unwrap());
        assert_eq!(resolve("ann", &text, "").unwrap().identity.uid, 5);
        assert_eq!(account_file("/nowhere"), "");
        assert_eq!(account_file("/dev/zero"), "");
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(user in ".{0,12}", passwd in "[a-z0-9:,\n]{0,200}", group in "[a-z0-9:,\n]{0,200}") {
            drop(resolve(&user, &passwd, &group));
        }
    }
}
