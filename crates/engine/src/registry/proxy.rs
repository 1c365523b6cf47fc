//! The way to servers through an HTTP proxy: `HTTPS_PROXY` and `NO_PROXY`, as curl and the tools of containers read them.
//!
//! Only HTTPS goes through it, in a tunnel of which the proxy sees nothing but the server's name; plain HTTP, which is for this host
//! and for registries nearby, goes straight.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use model::base64;

/// Which servers are reached through which proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    https: Option<Result<Proxy, ProxyError>>,
    exempt: Vec<String>,
}

/// An HTTP proxy.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    /// Where it is, without who the user is to it.
    pub address: Uri,
    /// What it is shown.
    pub authorization: Option<HeaderValue>,
}

/// Why a proxy cannot be used. What the variable says may have a password in it, so it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It is no address.
    #[error("HTTPS_PROXY is no address")]
    Address,
    /// It is a kind of proxy that is not spoken with.
    #[error("HTTPS_PROXY names a proxy that is none for HTTP: it has to begin with http://")]
    Scheme,
}

impl Proxies {
    /// What the environment says. Of two spellings the small one counts, as with curl.
    #[must_use]
    pub fn of_environment() -> Self {
        let text = |small: &str, large: &str| host::env::text(small).or_else(|| host::env::text(large));
        let exempt = text("no_proxy", "NO_PROXY").unwrap_or_default();
        Self::new(text("https_proxy", "HTTPS_PROXY").as_deref(), &exempt)
    }

    /// The proxy `https` for all servers but those of the list `exempt`.
    #[must_use]
    pub fn new(https: Option<&str>, exempt: &str) -> Self {
        let exempt = exempt.split([',', ' ']).filter(|name| !name.is_empty());
        Self {
            https: https.map(Proxy::parse),
            exempt: exempt.map(|name| name.to_ascii_lowercase()).collect(),
        }
    }

    /// The proxy through which the server of `uri` is reached, if it is.
    pub(super) fn of(&self, uri: &Uri) -> Result<Option<&Proxy>, ProxyError> {
        let Some(https) = &self.https else { return Ok(None) };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(443);
        let is_own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if is_own || self.exempt.iter().any(|name| is_meant(name, &host, port)) {
            return Ok(None);
        }
        https.as_ref().map(Some).map_err(|error| *error)
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, ProxyError> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = text.split_once("://").ok_or(ProxyError::Address)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProxyError::Scheme);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, server) = match authority.rsplit_once('@') {
            Some((user, server)) => (Some(user), server),
            None => (None, authority),
        };
        let address: Uri = format!("http://{server}/").parse().map_err(|_| ProxyError::Address)?;
        address.host().filter(|host| !host.is_empty()).ok_or(ProxyError::Address)?;
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let plain = [&decoded(name)?[..], b":", &decoded(password)?].concat();
            let mut value = HeaderValue::from_str(&format!("Basic {}", base64::encode(&plain))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let authorization = authorization.map(|value| value.ok_or(ProxyError::Address)).transpose()?;
        Ok(Self { address, authorization })
    }
}

/// What `%41` and the like stand for.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(bytes)
}

/// Whether `name`, one of `NO_PROXY`, means `host` at `port`: a domain with all below it, an address, a network, or `*`.
fn is_meant(name: &str, host: &str, port: u16) -> bool {
    if name == "*" {
        return true;
    }
    if let (Some((network, bits)), Ok(address)) = (name.split_once('/'), host.parse::<IpAddr>()) {
        return is_in(network, bits, address);
    }
    if name.trim_matches(['[', ']']) == host {
        return true;
    }
    let name = match name.rsplit_once(':') {
        Some((name, only)) if only.parse() == Ok(port) => name,
        Some((_, only)) if only.parse::<u16>().is_ok() => return false,
        _ => name,
    };
    let domain = name.trim_start_matches("*.").trim_start_matches('.');
    !domain.is_empty()
        && host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_in(network: &str, bits: &str, address: IpAddr) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let differs = u32::from(network) ^ u32::from(address);
            differs.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let differs = u128::from(network) ^ u128::from(address);
            differs.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_reached_without_a_proxy() {
        let check = |exempt: &str, server: &str, through: bool| {
            let proxies = Proxies::new(Some("proxy:3128"), exempt);
            let found = proxies.of(&format!("https://{server}/v2/x").parse().unwrap()).unwrap();
            assert_eq!(found.is_some(), through, "{exempt:?} {server}");
        };
        check("", "r.io", true);
        check("", "localhost:5000", false);
        check("", "127.0.0.2", false);
        check("", "[::1]:5000", false);
        check("*", "r.io", false);
        check("q.io, r.io", "r.io", false);
        check("R.io", "a.r.IO", false);
        check(".r.io", "a.r.io:5000", false);
        check("*.r.io", "a.r.io", false);
        check("r.io", "xr.io", true);
        check("r.io:5000", "r.io:5000", false);
        check("r.io:5000", "r.io", true);
        check("r.io:443", "r.io", false);
        check("10.0.0.0/8", "10.1.2.3", false);
        check("10.0.0.0/8", "11.1.2.3", true);
        check("0.0.0.0/0", "11.1.2.3", false);
        check("10.0.0.0/8", "10.r.io", true);
        check("fd00::/8,10.0.0.1", "[fd00::1]", false);
        check("fd00::/8,10.0.0.1", "10.0.0.1", false);
        check("fd00::/99999,10.0.0.0/x", "10.0.0.1", true);
    }

    #[test]
    fn what_a_proxy_is() {
        let proxy =
            |text: &str| Proxy::parse(text).map(|proxy| (proxy.address.to_string(), proxy.authorization));
        let at = |address: &str| Ok((address.to_owned(), None));
        assert_eq!(proxy("proxy:3128"), at("http://proxy:3128/"));
        assert_eq!(proxy("http://10.0.0.1:8080/x"), at("http://10.0.0.1:8080/"));
        let (address, shown) = proxy("http://us%65r:p%40ss:w@proxy").unwrap();
        assert_eq!(address, "http://proxy/");
        assert_eq!(shown.unwrap(), format!("Basic {}", base64::encode(b"user:p@ss:w")).as_str());
        for (wrong, error) in [
            ("socks5://proxy", ProxyError::Scheme),
            ("https://proxy", ProxyError::Scheme),
            ("http://", ProxyError::Address),
            ("http://a b", ProxyError::Address),
            ("http://u%zz@proxy", ProxyError::Address),
        ] {
            assert_eq!(proxy(wrong).unwrap_err(), error, "{wrong}");
        }
        // It matters only to who would go through it.
        let proxies = Proxies::new(Some("socks5://proxy"), "r.io");
        assert!(proxies.of(&"https://r.io/".parse().unwrap()).unwrap().is_none());
        assert!(proxies.of(&"https://q.io/".parse().unwrap()).is_err());
    }
}
