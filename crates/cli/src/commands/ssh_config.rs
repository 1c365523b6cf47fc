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

use super::ssh::quoted;
use crate::{
    args::SshConfigArgs,
    client::{Client, Start},
    error::Error,
    talk::{Talk, print},
};

const BEGIN: &str = "# banger: begin";
const END: &str = "# banger: end";
/// The longest configuration of a user that is changed.
const LONGEST: u64 = 4 << 20;

/// `ssh-config`.
///
/// # Errors
/// Where a file cannot be read or written, or the marks in the user's one are damaged.
pub fn run(talk: &Talk, args: SshConfigArgs) -> Result<(), Error> {
    let client = Client::of_user(Start::Never)?;
    let config = client.dirs().ssh_config();
    if !args.uninstall {
        write(client.dirs())?;
    }
    let line = format!("Include {}", argument(&config)?);
    if !args.install && !args.uninstall {
        return print(&format!("{}\n{line}\n", config.display()));
    }
    let home = host::env::var("HOME").map(PathBuf::from).ok_or(NoDirs::Homeless)?;
    let dir = home.join(".ssh");
    let path = dir.join("config");
    // One that is a link, into a directory of such files for example, stays one.
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let found = match fs::read_limited(&path, LONGEST) {
        Ok(bytes) => String::from_utf8(bytes)
            .map_err(|_| Error::SshConfig { path: path.clone(), why: "it is not UTF-8" })?,
        Err(error) if error.is_missing() => String::new(),
        Err(error) => return Err(error.into()),
    };
    let without = without(&found).map_err(|why| Error::SshConfig { path: path.clone(), why })?;
    // First, as a line after a `Host` would be that host's alone.
    let wanted = if args.install { format!("{BEGIN}\n{line}\n{END}\n{without}") } else { without };
    if wanted == found {
        talk.say(&format!("{} is as it should be", path.display()));
        return Ok(());
    }
    if !fs::exists(&dir) {
        fs::private_dir(&dir)?;
    }
    fs::write_atomic(&path, wanted.as_bytes())?;
    let what = if args.install { "ssh finds machines as NAME.banger now" } else { "banger's lines are gone" };
    talk.say(&format!("{}: {what}", path.display()));
    Ok(())
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
