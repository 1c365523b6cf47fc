//! `ssh-config`: what ssh has to know to reach VMs, and the one line by which the user's own configuration takes it in.
//!
//! Only `--install` and `--uninstall` touch a file of the user's, and of that only what is between two marks.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use host::{
    dirs::{Dirs, NoDirs},
    fs,
};
use model::ssh::SUFFIX;
use wire::doctor::Row;

use super::ssh::quoted;
use crate::{
    args::SshConfigArgs,
    client::{Client, Start},
    error::Error,
    talk::{Talk, print},
};

const BEGIN: &str = "# banger: begin";
const END: &str = "# banger: end";
/// The name of doctor's row.
const ROW: &str = "ssh";
/// The longest configuration of a user that is changed.
const LONGEST: u64 = 4 << 20;

/// `ssh-config`.
///
/// # Errors
/// Where a file cannot be read or written, or the marks in the user's one are damaged.
pub fn run(talk: &Talk, args: SshConfigArgs) -> Result<(), Error> {
    let client = Client::of_user(Start::Never)?;
    if !args.uninstall {
        write(client.dirs())?;
    }
    if !args.install && !args.uninstall {
        return print(&format!("{}\n{}\n", client.dirs().ssh_config().display(), line(client.dirs())?));
    }
    let own = Own::read(client.dirs())?;
    let wanted = if args.install { own.with() } else { own.without.clone() };
    if wanted == own.found {
        talk.say(&format!("{} is as it should be", own.path.display()));
        return Ok(());
    }
    own.replace(&wanted)?;
    let what = if args.install { "ssh finds machines as NAME.banger now" } else { "banger's lines are gone" };
    talk.say(&format!("{}: {what}", own.path.display()));
    Ok(())
}

/// Doctor's row of the user's own configuration; where `fix` says so, lines that are out of date are written anew.
#[must_use]
pub fn row(fix: bool) -> Row {
    look(fix).unwrap_or_else(|error| {
        Row::warn(
            ROW,
            error.to_string(),
            "mend it by hand; `banger ssh-config` prints the line that belongs there",
        )
    })
}

fn look(fix: bool) -> Result<Row, Error> {
    let dirs = Dirs::of_user()?;
    let own = Own::read(&dirs)?;
    let shown = own.path.display();
    if own.found == own.without {
        let why =
            "`banger vm ssh` works; `banger ssh-config --install` has ssh, scp and rsync find NAME.banger";
        return Ok(Row::pass(ROW, format!("{shown} says nothing of machines: {why}")));
    }
    if own.found == own.with() && fs::is_file(&dirs.ssh_config()) {
        return Ok(Row::pass(ROW, format!("{shown} has ssh find machines as NAME.banger")));
    }
    if !fix {
        let found = format!("{shown} has lines of banger's that are out of date, or come after others");
        return Ok(Row::warn(ROW, found, "banger doctor --fix, or banger ssh-config --install"));
    }
    write(&dirs)?;
    own.replace(&own.with())?;
    Ok(Row::pass(ROW, format!("{shown} was out of date; now ssh finds machines as NAME.banger")))
}

/// The user's own configuration of ssh.
struct Own {
    path: PathBuf,
    found: String,
    /// The same without what banger put there.
    without: String,
    line: String,
}

impl Own {
    fn read(dirs: &Dirs) -> Result<Self, Error> {
        let home = host::env::var("HOME").map(PathBuf::from).ok_or(NoDirs::Homeless)?;
        let path = home.join(".ssh/config");
        // One that is a link, into a directory of such files for example, stays one.
        let path = fs::real_path(&path).unwrap_or(path);
        let found = match fs::read_limited(&path, LONGEST) {
            Ok(bytes) => String::from_utf8(bytes)
                .map_err(|_| Error::SshConfig { path: path.clone(), why: "it is not UTF-8" })?,
            Err(error) if error.is_missing() => String::new(),
            Err(error) => return Err(error.into()),
        };
        let without = without(&found).map_err(|why| Error::SshConfig { path: path.clone(), why })?;
        Ok(Self { path, found, without, line: line(dirs)? })
    }

    /// As it is to be. Banger's line is the first, as one after a `Host` would be that host's alone.
    fn with(&self) -> String {
        format!("{BEGIN}\n{}\n{END}\n{}", self.line, self.without)
    }

    fn replace(&self, wanted: &str) -> Result<(), Error> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        if !fs::exists(dir) {
            fs::private_dir(dir)?;
        }
        Ok(fs::write_atomic(&self.path, wanted.as_bytes())?)
    }
}

/// The line that has ssh read banger's file.
fn line(dirs: &Dirs) -> Result<String, Error> {
    Ok(format!("Include {}", argument(&dirs.ssh_config())?))
}

/// A configuration without what banger put there.
fn without(found: &str) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut inside = false;
    for line in found.split_inclusive('\n') {
        match (line.trim_end(), inside) {
            (BEGIN, false) => inside = true,
            (END, true) => inside = false,
            (BEGIN, true) | (END, false) => return Err("the marks of banger's lines do not pair"),
            (_, true) => {}
            (_, false) => out.push_str(line),
        }
    }
    if inside { Err("the marks of banger's lines do not pair") } else { Ok(out) }
}

/// Writes the file that ssh reads for banger, where it is not there already; gives its path.
///
/// # Errors
/// Where it cannot be written.
pub fn write(dirs: &Dirs) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|e| host::Error::new("find", "this program", e))?;
    let home = host::env::var("BANGER_HOME");
    let text = config(dirs, &own, home)?;
    let path = dirs.ssh_config();
    if fs::read_limited(&path, LONGEST).ok().as_deref() != Some(text.as_bytes()) {
        fs::private_dir(&dirs.ssh())?;
        fs::write_atomic(&path, text.as_bytes())?;
    }
    Ok(path)
}

fn config(dirs: &Dirs, own: &Path, home: Option<OsString>) -> Result<String, Error> {
    let mut proxy = Vec::new();
    if let Some(home) = home {
        proxy.extend(b"env BANGER_HOME=");
        proxy.extend(quoted(home).as_bytes());
        proxy.push(b' ');
    }
    proxy.extend(quoted(own.into()).as_bytes());
    let proxy = String::from_utf8(proxy).ok().filter(|text| !text.contains('\n'));
    let proxy = proxy
        .ok_or_else(|| Error::SshConfig { path: own.to_owned(), why: "ssh cannot be told such a path" })?;
    // The name in quotes: newer versions of ssh refuse one that is shell text, older ones pass it on.
    let proxy = format!("{} vm proxy '%n'", proxy.replace('%', "%%"));
    Ok(format!(
        "# Written by banger, and again whenever it is needed.\n\
         Host *{SUFFIX}\n\
         \x20   User root\n\
         \x20   IdentityFile {identity}\n\
         \x20   IdentitiesOnly yes\n\
         \x20   UserKnownHostsFile {known}\n\
         \x20   GlobalKnownHostsFile /dev/null\n\
         \x20   StrictHostKeyChecking yes\n\
         \x20   HostKeyAlgorithms ssh-ed25519\n\
         \x20   UpdateHostKeys no\n\
         \x20   CheckHostIP no\n\
         \x20   ForwardAgent no\n\
         \x20   PreferredAuthentications publickey\n\
         \x20   ProxyCommand {proxy}\n",
        identity = argument(&dirs.ssh_identity())?,
        known = argument(&dirs.ssh_known_hosts())?,
    ))
}

/// A path as ssh reads one.
fn argument(path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\n', '$', '\\']) => {
            Ok(format!("\"{}\"", text.replace('%', "%%")))
        }
        _ => Err(Error::SshConfig { path: path.to_owned(), why: "ssh cannot be told such a path" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_goes() {
        let own = "Host a\n  User b\n";
        for (found, expect) in [
            (own.to_owned(), Ok(own.to_owned())),
            (format!("{BEGIN}\nInclude x\n{END}\n{own}"), Ok(own.to_owned())),
            (format!("{own}{BEGIN}\n{END}"), Ok(own.to_owned())),
            (format!("{BEGIN}\n{own}"), Err("the marks of banger's lines do not pair")),
            (format!("{own}{END}\n"), Err("the marks of banger's lines do not pair")),
        ] {
            assert_eq!(without(&found), expect, "{found}");
        }
    }
}
