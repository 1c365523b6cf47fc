//! What exactly is executed: the program's candidates, arguments, environment and directory.

use std::{
    ffi::{CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use wire::{Word, exec::Spec};

use super::account::Account;

/// Where programs are looked up that no `PATH` says.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The terminal that a client has that says nothing about it.
const DEFAULT_TERM: &str = "xterm";
/// The shells that are tried where the user has none.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// A command, ready for `execve(2)`.
#[derive(Debug)]
pub struct Command {
    /// The programs to try, one after the other.
    pub candidates: Vec<CString>,
    /// The arguments, the first of which is the program's name.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// The directories to try to begin in, one after the other. Whether it is that one or none.
    pub directory: Directory,
    /// Whom it runs as.
    pub account: Account,
}

/// Where a command begins.
#[derive(Debug)]
pub enum Directory {
    /// Here, or not at all.
    Asked(CString),
    /// Here, or at `/` where it is missing.
    Home(CString),
}

/// There is no shell to be run.
#[derive(Debug, PartialEq, Eq)]
pub struct NoShell;

impl Command {
    /// The command that `spec` asks for, as `account`, with `guest`'s variables below its own.
    ///
    /// # Errors
    /// Where it asks for a login shell and the image has none.
    pub fn new(spec: &Spec, account: Account, guest: &[(Word, Word)]) -> Result<Self, NoShell> {
        let environment = environment(spec, &account, guest);
        let (candidates, arguments) = match spec.argv.first() {
            None => login_shell(&account)?,
            Some(program) => {
                let path = environment.iter().rev().find(|(name, _)| name == b"PATH");
                let path = path.map_or(&b""[..], |(_, value)| value);
                let places = |program: &Word| candidates(program.as_bytes(), path);
                let is_there =
                    |place: &CString| host::fs::is_file(Path::new(OsStr::from_bytes(place.as_bytes())));
                match spec.through.first() {
                    Some(through) if places(through).iter().any(is_there) => {
                        (places(through), c_strings(spec.through.iter().chain(&spec.argv)))
                    }
                    Some(_) | None => (places(program), c_strings(spec.argv.iter())),
                }
            }
        };
        let directory = match &spec.cwd {
            Some(cwd) => Directory::Asked(c_string(cwd.as_bytes())),
            None => Directory::Home(c_string(account.home.as_bytes())),
        };
        let environment = environment
            .iter()
            .map(|(name, value)| c_string(&[&name[..], b"=", &value[..]].concat()))
            .collect();
        Ok(Self { candidates, arguments, environment, directory, account })
    }
}

/// Later ones replace earlier ones of the same name.
fn environment(spec: &Spec, account: &Account, guest: &[(Word, Word)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut set = |name: &[u8], value: &[u8]| match out.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_vec(),
        None => out.push((name.to_vec(), value.to_vec())),
    };
    set(b"PATH", DEFAULT_PATH.as_bytes());
    set(b"HOME", account.home.as_bytes());
    if let Some(name) = &account.name {
        set(b"USER", name.as_bytes());
        set(b"LOGNAME", name.as_bytes());
    }
    if let Some(shell) = &account.shell {
        set(b"SHELL", shell.as_bytes());
    }
    if spec.terminal.is_some() {
        set(b"TERM", DEFAULT_TERM.as_bytes());
    }
    for (name, value) in guest.iter().chain(&spec.env) {
        set(name.as_bytes(), value.as_bytes());
    }
    out
}

/// Where `program` may be: itself if it has a slash, else in each directory of `path`.
fn candidates(program: &[u8], path: &[u8]) -> Vec<CString> {
    if program.contains(&b'/') {
        return vec![c_string(program)];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let in_dir = |dir: &[u8]| match dir {
        // An empty entry is the working directory.
        b"" => c_string(&[b"./", program].concat()),
        dir => c_string(&[dir, b"/", program].concat()),
    };
    path.split(|byte| *byte == b':').map(in_dir).collect()
}

/// The user's shell, named so that it reads the user's profile.
fn login_shell(account: &Account) -> Result<(Vec<CString>, Vec<CString>), NoShell> {
    let own = account.shell.as_deref();
    let shell =
        own.into_iter().chain(SHELLS).find(|shell| host::fs::exists(Path::new(shell))).ok_or(NoShell)?;
    let name = Path::new(shell).file_name().map_or(&b"sh"[..], |name| name.as_bytes());
    Ok((vec![c_string(shell.as_bytes())], vec![c_string(&[b"-", name].concat())]))
}

fn c_strings<'a>(words: impl Iterator<Item = &'a Word>) -> Vec<CString> {
    words.map(|word| c_string(word.as_bytes())).collect()
}

/// The bytes up to the first NUL, which no [`Word`] has.
fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("it ends before the first NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str], env: &[(&str, &str)]) -> Command {
        let words = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<Vec<_>>()
        };
        let spec = Spec {
            argv: argv.iter().map(|word| (*word).into()).collect(),
            env: words(env),
            cwd: None,
            user: None,
            ..Spec::default()
        };
        let account = Account {
            uid: 0,
            gid: 0,
            groups: vec![0],
            name: Some("root".to_owned()),
            home: "/root".to_owned(),
            shell: None,
        };
        Command::new(&spec, account, &words(&[("A", "guest"), ("B", "guest")])).unwrap()
    }

    fn text(words: &[CString]) -> Vec<&str> {
        words.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn the_callers_variables_are_on_top_of_the_guests() {
        let found = command(&["x"], &[("A", "mine"), ("HOME", "/h")]);
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(
            text(&found.environment),
            [&path[..], "HOME=/h", "USER=root", "LOGNAME=root", "A=mine", "B=guest"]
        );
    }

    #[test]
    fn a_command_goes_through_what_is_there_alone() {
        let through = |first: &str| {
            let spec = Spec {
                argv: vec!["ls".into(), "a b".into()],
                through: vec![first.into(), "--".into()],
                env: vec![("PATH".into(), "/bin".into())],
                ..Spec::default()
            };
            let account =
                Account { uid: 0, gid: 0, groups: vec![0], name: None, home: "/".to_owned(), shell: None };
            let command = Command::new(&spec, account, &[]).unwrap();
            [text(&command.candidates), text(&command.arguments)].map(|words| words.join(" "))
        };
        assert_eq!(through("sh"), ["/bin/sh", "sh -- ls a b"]);
        assert_eq!(through("no such program"), ["/bin/ls", "ls a b"]);
    }

    #[test]
    fn programs_are_looked_up_in_the_commands_own_path() {
        assert_eq!(text(&command(&["ls"], &[("PATH", "/a::/b")]).candidates), ["/a/ls", "./ls", "/b/ls"]);
        assert_eq!(text(&command(&["./ls"], &[]).candidates), ["./ls"]);
        assert!(command(&[""], &[]).candidates.is_empty());
    }
}
