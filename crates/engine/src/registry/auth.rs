//! Authorization: what a registry asks for in its first answer, and what it gets (Docker's token authentication).

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use model::base64;

use super::{RegistryError, credentials::Credentials, http::Http};

/// The longest answer of a token server.
const LONGEST: u64 = 64 << 10;

/// The authorization for one repository.
///
/// # Locking
/// `header` is a leaf: held for a copy.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    scope: String,
    header: Mutex<Option<HeaderValue>>,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    /// User and password.
    Basic,
    /// A token from this place, for this service.
    Bearer { realm: String, service: Option<String>, error: Option<String> },
}

impl Auth {
    pub fn new(credentials: Option<Credentials>, scope: String) -> Self {
        Self { credentials, scope, header: Mutex::default() }
    }

    /// What requests are to carry.
    pub fn header(&self) -> Option<HeaderValue> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets what the registry at `uri` asks for in `headers`; `None` where that needs credentials, and there are none.
    pub async fn answer(
        &self,
        http: &Http,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<()>, RegistryError> {
        let mut challenges: Vec<_> = challenges(headers).collect();
        // A token first: it says less than a password.
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let host = || uri.host().unwrap_or_default().to_owned();
        let value = match (challenges.into_iter().next(), &self.credentials) {
            (None, _) => return Err(RegistryError::Challenge { host: host() }),
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => basic(user, password),
            (Some(Challenge::Basic), _) => return Ok(None),
            (Some(Challenge::Bearer { realm, service, .. }), _) => {
                let realm = place(uri, &realm)?;
                match self.token(http, &realm, service.as_deref()).await? {
                    Some(token) => secret(&format!("Bearer {token}")),
                    None => return Ok(None),
                }
            }
        };
        let value = value.ok_or_else(|| RegistryError::Token { host: host() })?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(Some(()))
    }

    /// A token of the server at `realm`; `None` where that does not give one for these credentials.
    async fn token(
        &self,
        http: &Http,
        realm: &Uri,
        service: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let mut form = vec![("scope", &*self.scope)];
        form.extend(service.map(|service| ("service", service)));
        let response = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                form.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "banger"),
                    ("refresh_token", token),
                ]);
                let request = Request::post(realm.clone())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::new(Bytes::from(encoded(&form))))
                    .expect("its parts are checked");
                http.send(request).await?
            }
            other => {
                let separator = if realm.query().is_some() { '&' } else { '?' };
                let uri: Uri =
                    format!("{realm}{separator}{}", encoded(&form)).parse().map_err(|_| lead(realm))?;
                let authorization = match other {
                    Some(Credentials::Password { user, password }) => basic(user, password),
                    Some(Credentials::Identity(_)) | None => None,
                };
                http.get(&uri, &HeaderMap::new(), authorization).await?
            }
        };
        let host = realm.host().unwrap_or_default().to_owned();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
            status => return Err(RegistryError::Status { host, status, said: String::new() }),
        }
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = http.body(response, LONGEST).await?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        let token =
            answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        token.map(Some).ok_or(RegistryError::Token { host })
    }
}

/// Whether a registry that answers with `headers` refuses a token for what it is, and not for what may be done with it.
pub(super) fn is_token_refused(headers: &HeaderMap) -> bool {
    let mut challenges = challenges(headers);
    challenges.any(|challenge| match challenge {
        Challenge::Bearer { error, .. } => error.as_deref() == Some("invalid_token"),
        Challenge::Basic => false,
    })
}

/// The place of the token server that the registry at `uri` names: as protected as that.
fn place(uri: &Uri, realm: &str) -> Result<Uri, RegistryError> {
    let refused = |why| RegistryError::Lead { to: realm.chars().take(200).collect(), why };
    let place: Uri = realm.parse().map_err(|_| refused("which is no address"))?;
    match place.scheme_str() {
        Some("https") => Ok(place),
        Some("http") if uri.scheme_str() == Some("http") => Ok(place),
        _ => Err(refused("where nothing protects what is sent")),
    }
}

fn lead(realm: &Uri) -> RegistryError {
    RegistryError::Lead { to: realm.host().unwrap_or_default().to_owned(), why: "which is no address" }
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes())))
}

/// A value that is never logged.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What `headers` ask for.
fn challenges(headers: &HeaderMap) -> impl Iterator<Item = Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values.filter_map(|value| challenge(value.to_str().ok()?))
}

/// What a `WWW-Authenticate` header asks for.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut error) = (None, None, None);
    let mut rest = rest.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "error" => error = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service, error })
}

/// Pairs as forms have them.
fn encoded(pairs: &[(&str, &str)]) -> String {
    let word = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte))
                }
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", word(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>| {
            let service = service.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service, error: None })
        };
        let check = |text: &str, expected| assert_eq!(challenge(text), expected, "{text}");
        check("Basic realm=\"x\"", Some(Challenge::Basic));
        check("basic", Some(Challenge::Basic));
        check(
            "Bearer realm=\"https://auth.io/token\",service=\"r.io\",scope=\"repository:a/b:pull,push\"",
            bearer("https://auth.io/token", Some("r.io")),
        );
        check("bearer service=x, realm=https://a", bearer("https://a", Some("x")));
        check("Bearer service=\"x\"", None);
        check("Bearer realm=\"unfinished", None);
        check("Negotiate", None);
        check("", None);
    }

    #[test]
    fn token_servers_are_as_protected_as_their_registry() {
        let check = |from: &str, realm: &str, expected: bool| {
            assert_eq!(place(&from.parse().unwrap(), realm).is_ok(), expected, "{realm}");
        };
        check("https://a", "https://b/token", true);
        check("https://a", "http://a/token", false);
        check("http://a", "http://b/token", true);
        check("http://a", "file:///etc/passwd", false);
        check("http://a", "/token", false);
    }

    #[test]
    fn forms() {
        assert_eq!(
            encoded(&[("scope", "repository:a/b:pull"), ("service", "x y&")]),
            "scope=repository%3Aa%2Fb%3Apull&service=x%20y%26"
        );
    }
}
