//! Stands in for Firecracker in a jail: does to the files there what it is told over its API socket, and says how that went.
//!
//! ```text
//! read NAME         its text
//! write NAME TEXT   puts TEXT at its beginning
//! list NAME         what is in that directory
//! ```
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "it is a program of a test")]

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixListener,
};

fn main() {
    let socket = std::env::args().skip_while(|argument| argument != "--api-sock").nth(1).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let answer = done(line.trim_end()).unwrap_or_else(|error| format!("error: {:?}", error.kind()));
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn done(line: &str) -> io::Result<String> {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    match words[..] {
        ["read", name] => fs::read_to_string(name),
        ["write", name, text] => {
            OpenOptions::new().write(true).open(name)?.write_all(text.as_bytes())?;
            Ok("written".to_owned())
        }
        ["list", name] => {
            let names = fs::read_dir(name)?.map(|entry| Ok(entry?.file_name().into_string().unwrap()));
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names.join(" "))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
