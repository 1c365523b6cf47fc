//! A token server for registries on this host (Docker's token authentication), whose signatures they trust.
#![expect(clippy::disallowed_methods, reason = "a test's files, processes and clock are its own")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use model::base64;
use serde_json::{Value, json};

use crate::{need, oci::USER};

/// What stands for a login with [`USER`] (an identity token).
pub const IDENTITY: &str = "an identity/token+of=the test";
/// What a registry of it is called in tokens.
const SERVICE: &str = "registry of the test";
/// What it calls itself.
const ISSUER: &str = "issuer of the test";
/// The repositories that everybody may pull.
const OPEN: &str = "open/";
/// How long a token is good, in seconds.
const GOOD: u64 = 300;

/// What is wrong with the tokens that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Nothing.
    Good,
    /// They are for another repository.
    Elsewhere,
    /// They were good an hour ago.
    Expired,
    /// Somebody else signed them.
    Forged,
}

/// The server; it ends with the value.
#[derive(Debug)]
pub struct Issuer {
    address: String,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    openssl: PathBuf,
    dir: PathBuf,
    tokens: Mutex<Tokens>,
    asked: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl Issuer {
    /// Starts one; without openssl the test has said that it skips.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let openssl = need::program("openssl", "openssl")?;
        let name = format!("banger-issuer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).expect("a test's directory is writable");
        certify(&openssl, &dir, "issuer");
        certify(&openssl, &dir, "forger");
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a loopback");
        let address = listener.local_addr().expect("it was just bound").to_string();
        let (tokens, asked, ended) = (Mutex::new(Tokens::Good), Mutex::default(), AtomicBool::new(false));
        let inner = Arc::new(Inner { openssl, dir, tokens, asked, ended });
        let server = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.ended.load(Ordering::Relaxed) {
                    return;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.answer(stream));
            }
        });
        Some(Self { address, inner })
    }

    /// Gives such tokens from now on.
    pub fn give(&self, tokens: Tokens) {
        *lock(&self.inner.tokens) = tokens;
    }

    /// Who asked for which scope since this was last called: `user repository:a/b:pull`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.inner.asked))
    }

    /// What a registry has to know of it.
    pub(crate) fn configuration(&self) -> String {
        let certificate = self.inner.dir.join("issuer.pem");
        format!(
            "auth: {{token: {{realm: 'http://{}/token', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {}}}}}\n",
            self.address,
            certificate.display()
        )
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        let _ = fs::remove_dir_all(&self.inner.dir);
    }
}

impl Inner {
    /// Answers the one request of a connection.
    fn answer(&self, stream: TcpStream) {
        let Some(request) = Request::read(&stream) else { return };
        let (status, body) = match self.token(&request) {
            Some(token) => ("200 OK", json!({ "token": token })),
            None => ("401 Unauthorized", json!({ "errors": [{ "code": "UNAUTHORIZED" }] })),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // Who hangs up does not want it.
        let _ = (&stream).write_all((head + &body).as_bytes());
    }

    /// The token that `request` gets.
    fn token(&self, request: &Request) -> Option<String> {
        let word = |key: &str| request.words.iter().find(|(name, _)| name == key).map(|(_, value)| &**value);
        let known = format!("Basic {}", base64::encode(format!("{}:{}", USER.0, USER.1).as_bytes()));
        let who = match (&request.authorization, word("refresh_token")) {
            (None, None) => "nobody",
            (Some(shown), None) if *shown == known => USER.0,
            (None, Some(IDENTITY)) if word("grant_type") == Some("refresh_token") => "identity",
            _ => "stranger",
        };
        let scopes: Vec<&str> =
            request.words.iter().filter(|(name, _)| name == "scope").map(|(_, value)| &**value).collect();
        lock(&self.asked).push(format!("{who} {}", scopes.join(" ")));
        if who == "stranger" || word("service") != Some(SERVICE) {
            return None;
        }
        let tokens = *lock(&self.tokens);
        let access = scopes.iter().filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (path, actions) = rest.rsplit_once(':')?;
            let is_open = path.starts_with(OPEN);
            let allowed: Vec<_> =
                actions.split(',').filter(|action| who != "nobody" || is_open && *action == "pull").collect();
            let name = if tokens == Tokens::Elsewhere { "other/place" } else { path };
            Some(json!({ "type": kind, "name": name, "actions": allowed }))
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let since = if tokens == Tokens::Expired { now - 3600 } else { now };
        let claims = json!({
            "iss": ISSUER, "sub": who, "aud": SERVICE, "jti": "1", "iat": since, "nbf": since, "exp": since + GOOD,
            "access": access.collect::<Vec<_>>(),
        });
        let key = if tokens == Tokens::Forged { "forger" } else { "issuer" };
        Some(self.signed(key, &claims))
    }

    /// A JSON web token of `claims` (RFC 7519), signed by `key`.
    fn signed(&self, key: &str, claims: &Value) -> String {
        let certificate =
            fs::read_to_string(self.dir.join(format!("{key}.pem"))).expect("it was made at the start");
        let der: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
        let text =
            format!("{}.{}", of_url(header.to_string().as_bytes()), of_url(claims.to_string().as_bytes()));
        let mut sign = Command::new(&self.openssl);
        sign.args(["dgst", "-sha256", "-sign"]).arg(self.dir.join(format!("{key}.key")));
        let mut child = sign.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("openssl was found");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(text.as_bytes()).expect("openssl reads it");
        drop(input);
        let signature = child.wait_with_output().expect("it ends").stdout;
        format!("{text}.{}", of_url(&signature))
    }
}

/// What is asked for.
struct Request {
    authorization: Option<String>,
    /// Of its query, or of the form in its body.
    words: Vec<(String, String)>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let target = line.split(' ').nth(1)?.to_owned();
        let mut fields = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = fields.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = String::new();
        reader.take(length).read_to_string(&mut body).ok()?;
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let words = [query, &body].into_iter().flat_map(|text| text.split('&'));
        let words =
            words.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), plain(value)));
        Some(Self { authorization: fields.remove("authorization"), words: words.collect() })
    }
}

/// A value of a query without its escapes.
fn plain(value: &str) -> String {
    let mut bytes = value.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Base64 for addresses (RFC 4648, section 5), without padding.
fn of_url(bytes: &[u8]) -> String {
    base64::encode(bytes).replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()
}

/// Makes a key `name` in `dir`, and a certificate that it signs itself.
fn certify(openssl: &Path, dir: &Path, name: &str) {
    // Without it openssl adds what its own configuration says.
    fs::write(dir.join("openssl.cnf"), "[req]\ndistinguished_name = name\n[name]\n")
        .expect("a test's directory is writable");
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-config", "openssl.cnf", "-nodes", "-days", "2", "-newkey", "rsa:2048"]);
    command.args(["-subj", &format!("/CN={name}"), "-keyout", &format!("{name}.key")]);
    command.args(["-out", &format!("{name}.pem")]).current_dir(dir).stdin(Stdio::null());
    let output = command.output().expect("openssl was found");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
