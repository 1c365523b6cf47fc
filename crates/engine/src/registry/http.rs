//! HTTP as registries need it: requests with bounds on time and length, and redirections that take no secrets along.

use std::{error::Error as _, sync::OnceLock, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsSchemes};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, proxy::Tunnel},
    },
    rt::TokioExecutor,
};

use super::{
    RegistryError, Settings,
    proxy::{Proxies, Proxy},
};

/// The most redirections of one request.
const MOST_LEADS: u32 = 5;

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// How often in a row a download may break off without getting on.
    pub attempts: u32,
    /// The pause before it is tried again, which doubles each time.
    pub pause: Duration,
}

/// Speaks HTTP and HTTPS.
#[derive(Debug)]
pub(crate) struct Http {
    patience: Patience,
    plain: Client<HttpConnector, Full<Bytes>>,
    /// Made when it is needed first, because that reads this host's certificates.
    secure: OnceLock<Secure<HttpConnector>>,
    proxies: Proxies,
    /// As `secure`, through a proxy.
    tunnelled: OnceLock<Secure<Tunnel<HttpConnector>>>,
}

/// Speaks HTTPS over what the connector gives.
type Secure<C> = Client<HttpsConnector<C>, Full<Bytes>>;

impl Http {
    pub fn new(settings: &Settings) -> Self {
        let Settings { patience, proxies, .. } = settings;
        let plain = Client::builder(TokioExecutor::new()).build(connector(*patience));
        let (secure, tunnelled) = (OnceLock::new(), OnceLock::new());
        Self { patience: *patience, plain, secure, proxies: proxies.clone(), tunnelled }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Asks for `uri`, and where that leads to. Only its own host gets the authorization.
    pub async fn get(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut at = uri.clone();
        for _ in 0..MOST_LEADS {
            let mut request = Request::get(at.clone());
            let all = request.headers_mut().expect("nothing is wrong yet");
            all.extend(headers.clone());
            if let Some(value) = authorization.clone().filter(|_| is_same_place(&at, uri)) {
                all.insert(header::AUTHORIZATION, value);
            }
            let response = self.send(request.body(Full::default()).expect("its parts are checked")).await?;
            let leads = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !leads {
                return Ok(response);
            }
            at = lead(&at, response.headers().get(header::LOCATION))?;
        }
        Err(RegistryError::Lead { to: shown(&at), why: "by too many steps" })
    }

    /// Sends one request.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RegistryError> {
        let mut request = request;
        request.headers_mut().insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("banger/", env!("CARGO_PKG_VERSION"))),
        );
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            match self.proxies.of(request.uri())? {
                None => self.secure()?.request(request),
                Some(proxy) => self.tunnelled(proxy)?.request(request),
            }
        } else {
            self.plain.request(request)
        };
        match tokio::time::timeout(self.patience.stall, answer).await {
            Err(_) => Err(RegistryError::Stalled { host }),
            Ok(Ok(response)) => Ok(response),
            // "client error (Connect)" says nothing that its cause does not.
            Ok(Err(error)) => {
                let cause = match error.source() {
                    Some(source) => crate::chain(source).into(),
                    None => error.into(),
                };
                Err(RegistryError::Unreachable { host, cause })
            }
        }
    }

    /// The next bytes of a body; `None` at its end.
    pub async fn next(&self, response: &mut Response<Incoming>) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match tokio::time::timeout(self.patience.stall, response.body_mut().frame()).await {
                Err(_) => return Err(RegistryError::Stalled { host: "the server".to_owned() }),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(RegistryError::BrokenOff(error.into())),
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of a body of up to `limit` bytes.
    pub async fn body(&self, response: Response<Incoming>, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut response = response;
        let mut all = Vec::new();
        while let Some(bytes) = self.next(&mut response).await? {
            if (all.len() + bytes.len()) as u64 > limit {
                return Err(RegistryError::TooLong { limit });
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn secure(&self) -> Result<&Secure<HttpConnector>, RegistryError> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let mut connector = connector(self.patience);
        connector.enforce_http(false);
        let connector = https()?.https_only().enable_http1().wrap_connector(connector);
        Ok(self.secure.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// There is one proxy for all servers that are reached through one.
    fn tunnelled(&self, proxy: &Proxy) -> Result<&Secure<Tunnel<HttpConnector>>, RegistryError> {
        if let Some(client) = self.tunnelled.get() {
            return Ok(client);
        }
        let mut tunnel = Tunnel::new(proxy.address.clone(), connector(self.patience));
        if let Some(authorization) = &proxy.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let connector = https()?.https_only().enable_http1().wrap_connector(tunnel);
        Ok(self.tunnelled.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)))
    }
}

/// HTTPS with the certificates of this host, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are set.
fn https() -> Result<HttpsConnectorBuilder<WantsSchemes>, RegistryError> {
    HttpsConnectorBuilder::new().with_native_roots().map_err(RegistryError::Certificates)
}

fn connector(patience: Patience) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(patience.connect));
    connector
}

/// Whether what one of them is told may be told to the other.
fn is_same_place(one: &Uri, other: &Uri) -> bool {
    (one.scheme(), one.authority()) == (other.scheme(), other.authority())
}

/// Where `location`, an answer of `from`, leads to.
fn lead(from: &Uri, location: Option<&HeaderValue>) -> Result<Uri, RegistryError> {
    let text = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = |why| RegistryError::Lead { to: text.chars().take(200).collect(), why };
    let to: Uri = text.parse().map_err(|_| refused("which is no address"))?;
    let to = if to.authority().is_none() && text.starts_with('/') {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = to.into_parts().path_and_query;
        Uri::from_parts(parts).map_err(|_| refused("which is no address"))?
    } else {
        to
    };
    match to.scheme_str() {
        Some("https") => Ok(to),
        Some("http") if from.scheme() == Some(&Scheme::HTTP) => Ok(to),
        Some("http") => Err(refused("where nothing protects what is sent")),
        _ => Err(refused("which is no address of the web")),
    }
}

fn shown(uri: &Uri) -> String {
    uri.host().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_keep_their_protection() {
        let check = |from: &str, location: &str, expected: Result<&str, &str>| {
            let value = HeaderValue::from_str(location).unwrap();
            let found = lead(&from.parse().unwrap(), Some(&value)).map(|uri| uri.to_string());
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{location}");
        };
        check("https://a/v2/x", "https://b/y?z=1", Ok("https://b/y?z=1"));
        check("https://a:5000/v2/x", "/y", Ok("https://a:5000/y"));
        check("http://a/", "http://b/y", Ok("http://b/y"));
        check("http://a/", "https://b/y", Ok("https://b/y"));
        check(
            "https://a/",
            "http://a/y",
            Err("the server leads to http://a/y, where nothing protects what is sent"),
        );
        check(
            "https://a/",
            "ftp://a/y",
            Err("the server leads to ftp://a/y, which is no address of the web"),
        );
        check("https://a/", "", Err("the server leads to , which is no address"));
        assert!(is_same_place(&"https://a/x".parse().unwrap(), &"https://a/y".parse().unwrap()));
        for other in ["http://a/x", "https://a:444/x", "https://b/x"] {
            assert!(!is_same_place(&"https://a/x".parse().unwrap(), &other.parse().unwrap()), "{other}");
        }
    }
}
