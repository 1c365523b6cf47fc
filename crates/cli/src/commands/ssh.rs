//! `vm ssh` and `vm proxy`: the user's own OpenSSH, through the agent, with banger's key and pins.
//!
//! ```text
//! banger vm ssh ──▶ ssh ──ProxyCommand──▶ banger vm proxy ──▶ bangerd ──▶ agent ──▶ the guest's port 22
//! ```
//! What ssh is told is in the file of [`super::ssh_config`], so scp, rsync and git that read it come the same way.

use std::{ffi::OsString, io::Write, net::Shutdown, os::unix::ffi::OsStringExt, time::Duration};

use bytes::Bytes;
use host::{
    proc::{Command, Exit, Program, Signal},
    stdio::{self, Output},
};
use model::{exit, ssh::SUFFIX};
use tokio::net::UnixStream;
use wire::{
    control::{CONNECT, Code, State, Vm},
    guest::{Health, InitKind},
};

use super::{Context, create, ssh_config};
use crate::{
    args::{ProxyArgs, SshArgs},
    client::{path, with},
    error::Error,
    signals::{Heard, Signals},
    text::visible,
};

/// Where a guest's sshd listens.
const PORT: &str = "22";
/// How long a guest whose init does not tell whether it is through may take until its sshd listens.
const STARTING: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// What ssh ends with where it failed itself.
const SSH_FAILED: u8 = 255;

/// `vm ssh`; the exit code is the command's.
///
/// # Errors
/// Why banger failed. Why ssh failed it has said itself.
pub async fn ssh(context: &Context, args: SshArgs) -> Result<u8, Error> {
    let mut signals = Signals::all()?;
    let vm: Vm = context.client.get(&path(&["vms", &args.reference])).await?;
    let interactive = args.command.is_empty();
    let name = visible(&vm.name);
    let code = match signals.unless(sshd(context, &vm.id)).await? {
        Some(_) => openssh(context, &mut signals, &vm, &args.command).await?,
        None => {
            context.talk.say(&format!("{name} has no sshd that listens; this is a shell of banger's agent"));
            create::in_guest(context, &mut signals, &vm.id, args.command).await?
        }
    };
    let vm: Result<Vm, _> = context.client.get(&path(&["vms", &vm.id])).await;
    if interactive && vm.is_ok_and(|vm| vm.state == State::Running) {
        context.talk.say(&format!("{name} is still running: banger vm ssh {name}, banger vm delete {name}"));
    }
    Ok(code)
}

/// Runs ssh at this terminal.
async fn openssh(
    context: &Context,
    signals: &mut Signals,
    vm: &Vm,
    command: &[OsString],
) -> Result<u8, Error> {
    let config = ssh_config::write(context.client.dirs())?;
    // What it says of a connection that works is not the command's.
    let mut ssh = Command::new(Program::Ssh).arg("-F").arg(config).args(["-o", "LogLevel=ERROR", "--"]);
    ssh = ssh.arg(format!("{}{SUFFIX}", vm.name));
    if !command.is_empty() {
        ssh = ssh.arg(remote(command));
    }
    let running = ssh.foreground()?;
    let ended = running.clone();
    let ended = tokio::task::spawn_blocking(move || ended.wait());
    tokio::pin!(ended);
    let exit = loop {
        tokio::select! {
            exit = &mut ended => break exit.expect("waiting does not panic")?,
            heard = signals.next() => match heard {
                Heard::Terminate => running.signal(Signal::Term)?,
                Heard::Hangup => running.signal(Signal::Hup)?,
                // The terminal sent it to ssh too.
                Heard::Interrupt | Heard::Quit | Heard::Window => {}
            },
        }
    };
    Ok(match exit {
        Exit::Code(code) => match u8::try_from(code).unwrap_or(SSH_FAILED) {
            SSH_FAILED => exit::COMMAND_FAILED,
            code => code,
        },
        Exit::Signal(2) => exit::CANCELLED,
        Exit::Signal(_) => exit::COMMAND_FAILED,
    })
}

/// `command` for the shell that sshd starts, which splits what it gets: each word arrives as it is. A shell that stays beside
/// the command tells of a signal by 128 and its number.
fn remote(command: &[OsString]) -> OsString {
    let mut line = br#"/bin/sh -c '"$@"; exit $?' sh"#.to_vec();
    for word in command {
        line.push(b' ');
        line.extend(quoted(word.clone()).into_vec());
    }
    OsString::from_vec(line)
}

/// `word` as one word of a shell.
pub fn quoted(word: OsString) -> OsString {
    let mut out = vec![b'\''];
    for byte in word.into_vec() {
        match byte {
            b'\'' => out.extend(br"'\''"),
            byte => out.push(byte),
        }
    }
    out.push(b'\'');
    OsString::from_vec(out)
}

/// `vm proxy`: standard input and output are a connection to a guest's sshd.
///
/// # Errors
/// Where there is no such machine, it does not run, or has no sshd.
pub async fn proxy(context: &Context, args: ProxyArgs) -> Result<(), Error> {
    let name = args.reference.strip_suffix(SUFFIX).unwrap_or(&args.reference);
    let Some((stream, early)) = sshd(context, name).await? else {
        return Err(Error::NoSshd(name.to_owned()));
    };
    let failed = |e| host::Error::new("use", "a connection to the daemon", e);
    let mut up = stream.into_std().map_err(failed)?;
    up.set_nonblocking(false).map_err(failed)?;
    let mut down = up.try_clone().map_err(failed)?;
    // The thread may sit in read(2) when the guest has ended the connection; it ends with the process.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stdio::read(&mut buffer) {
            if up.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = up.shutdown(Shutdown::Write);
    });
    stdio::write_all(Output::Stdout, &early)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match std::io::Read::read(&mut down, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => stdio::write_all(Output::Stdout, &buffer[..count])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Cut("ssh was using a machine", Some(e))),
        }
    }
}

/// A connection to the sshd of machine `vm`; `None` where it has none. One that may be about to listen is waited for.
async fn sshd(context: &Context, vm: &str) -> Result<Option<(UnixStream, Bytes)>, Error> {
    let target = with(path(&["vms", vm, "connect"]), "tcp", PORT);
    loop {
        match context.client.upgrade(&target, CONNECT).await {
            Ok(upgraded) => return Ok(Some((upgraded.socket, upgraded.first))),
            Err(Error::Daemon(body)) if body.code == Code::Guest => {}
            Err(error) => return Err(error),
        }
        let health: Health = context.client.get(&path(&["vms", vm, "health"])).await?;
        let starts = match (health.init, health.init_ready) {
            (InitKind::Agent, _) | (_, Some(true)) => false,
            (_, Some(false)) => true,
            (_, None) => Duration::from_millis(health.uptime_ms) < STARTING,
        };
        if !starts {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stays_one_word() {
        let line = remote(&["echo", "a b", "it's", "$HOME", ""].map(OsString::from));
        assert_eq!(
            line.to_str().unwrap(),
            r#"/bin/sh -c '"$@"; exit $?' sh 'echo' 'a b' 'it'\''s' '$HOME' ''"#
        );
    }
}
