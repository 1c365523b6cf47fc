//! Whom a command runs as. Read from the image's own files: a static program has no NSS, and an image may have no libc.

use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};

/// The most of `/etc/passwd` or `/etc/group` that is read.
const LIMIT: u64 = 4 << 20;

/// A user and the groups a command of theirs has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The main group's number.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The name, where there is one.
    pub name: Option<String>,
    /// The home directory.
    pub home: String,
    /// The login shell, where one is named.
    pub shell: Option<String>,
}

/// The two files that know of users.
#[derive(Debug, Default)]
pub struct Files {
    passwd: String,
    group: String,
}

impl Files {
    /// Reads them as they are now; one that is missing is empty.
    #[must_use]
    pub fn read() -> Self {
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    /// The account of `user`: a name or number, and after a colon a group's; without it root. `None` where there is no
    /// such name. A number needs no entry.
    #[must_use]
    pub fn find(&self, user: Option<&str>) -> Option<Account> {
        let user = user.unwrap_or("0");
        let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
        let mut account = self.user(user)?;
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            account.gid = self.group(group)?;
            account.groups = vec![account.gid];
        }
        Some(account)
    }

    fn user(&self, user: &str) -> Option<Account> {
        let user = if user.is_empty() { "0" } else { user };
        let number: Option<u32> = user.parse().ok();
        let entries = || self.passwd.lines().filter_map(passwd_entry);
        // A name made of digits is a name first, as in chown(1).
        let found = entries()
            .find(|entry| entry.name.as_deref() == Some(user))
            .or_else(|| entries().find(|entry| number == Some(entry.uid)));
        let mut account = match (found, number) {
            (Some(found), _) => found,
            (None, Some(uid)) => {
                let home = if uid == 0 { "/root" } else { "/" };
                Account { uid, gid: 0, groups: Vec::new(), name: None, home: home.to_owned(), shell: None }
            }
            (None, None) => return None,
        };
        account.groups = vec![account.gid];
        if let Some(name) = &account.name {
            account.groups.extend(self.group.lines().filter_map(|line| group_of(line, name)));
        }
        Some(account)
    }

    fn group(&self, group: &str) -> Option<u32> {
        let by_name = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, number) = (fields.next()?, fields.nth(1)?);
            if name == group { number.parse().ok() } else { None }
        });
        by_name.or_else(|| group.parse().ok())
    }
}

/// `name:password:uid:gid:comment:home:shell`
fn passwd_entry(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, rest @ ..] = &fields[..] else { return None };
    Some(Account {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        groups: Vec::new(),
        name: Some((*name).to_owned()),
        home: if home.is_empty() { "/".to_owned() } else { (*home).to_owned() },
        shell: rest.first().filter(|shell| !shell.is_empty()).map(|shell| (*shell).to_owned()),
    })
}

/// The number of the group of this line, `name:password:gid:member,member`, if `name` is a member.
fn group_of(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    let (gid, members) = (fields.nth(2)?, fields.next()?);
    if members.split(',').any(|member| member.trim() == name) { gid.parse().ok() } else { None }
}

fn text(path: &str) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        // Whatever else an image has in its place must neither block nor act.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd:
                "root:x:0:0:root:/root:/bin/bash\n# comment\nbroken:x:a:b::/:\nme:x:1000:1001:,,,:/home/me:\n\
                     42:x:7:7::/seven:/bin/sh\n"
                    .to_owned(),
            group: "root:x:0:\nme:x:1001:\ndocker:x:999:you,me\nsudo:x:27:me\nbad:x:no:me\n".to_owned(),
        }
    }

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let account = files().find(Some(user)).unwrap();
        assert_eq!((account.uid, account.gid), (uid, gid), "{user}");
        assert_eq!((&account.groups[..], &account.home[..]), (groups, home), "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        check("root", 0, 0, &[0], "/root");
        check("me", 1000, 1001, &[1001, 999, 27], "/home/me");
        check("1000", 1000, 1001, &[1001, 999, 27], "/home/me");
        check("42", 7, 7, &[7], "/seven");
        check("5000", 5000, 0, &[0], "/");
        check("me:docker", 1000, 999, &[999], "/home/me");
        check("me:5", 1000, 5, &[5], "/home/me");
        check("1234:sudo", 1234, 27, &[27], "/");
        check("me:", 1000, 1001, &[1001, 999, 27], "/home/me");
        assert_eq!(files().find(None).unwrap().shell.as_deref(), Some("/bin/bash"));
    }

    #[test]
    fn unknown_names_are_nobody() {
        for user in ["nobody", "me:nogroup", "broken", "-1", "99999999999"] {
            assert_eq!(files().find(Some(user)), None, "{user}");
        }
    }

    #[test]
    fn an_image_without_users_has_root() {
        let root = Files::default().find(None).unwrap();
        assert_eq!((root.uid, root.gid, &root.home[..], root.shell), (0, 0, "/root", None));
    }
}
