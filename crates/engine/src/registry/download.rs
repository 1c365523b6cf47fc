//! One file over HTTP into a sink, going on where a connection broke off.
//!
//! What a server says of lengths and parts is compared with what is known of the file before a byte is taken.

use std::sync::atomic::{AtomicU64, Ordering};

use ::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use image::oci::{BlobError, Sink, SinkError};

use super::{Http, RegistryError};

/// The bytes that go to the disk at once.
const PIECE: usize = 1 << 20;
/// A connection that brought less than this before it broke off brought nothing: a server cannot go on like that for ever.
const ENOUGH: u64 = 64 << 10;

/// Where a file comes from.
pub(crate) trait Source: Sync {
    /// Asks for it, with `headers`.
    fn request(
        &self,
        headers: &HeaderMap,
    ) -> impl Future<Output = Result<Response<Incoming>, RegistryError>> + Send;

    /// The error that `response` is, which has neither the file nor a part of it.
    fn refuse(&self, response: Response<Incoming>) -> impl Future<Output = RegistryError> + Send;
}

/// Fills `sink` with what `source` gives. `done` counts its bytes.
///
/// # Errors
/// Where it cannot be had, or is longer than it should be. Its digest is compared when the sink is finished.
pub(crate) async fn fill(
    http: &Http,
    source: &impl Source,
    sink: Sink,
    done: &AtomicU64,
) -> Result<Sink, RegistryError> {
    let mut sink = sink;
    let (digest, size) = (sink.digest(), sink.size());
    let mut failures = 0;
    while !sink.is_complete() {
        let before = sink.written();
        let (returned, result) = fetch(http, source, sink, done).await;
        sink = returned.ok_or(RegistryError::Stopped)?;
        match result {
            Ok(()) if sink.is_complete() => break,
            // It ended where it should not, without any error.
            Ok(()) => {}
            Err(error) if error.is_passing() => {
                tracing::debug!(%digest, error = crate::chain(&error), at = sink.written(), "a download broke off");
                if failures + 1 >= http.patience().attempts {
                    return Err(RegistryError::Broken {
                        digest,
                        times: failures + 1,
                        cause: Box::new(error),
                    });
                }
            }
            Err(error) => return Err(error),
        }
        failures = if sink.written() >= before.saturating_add(ENOUGH) { 0 } else { failures + 1 };
        if failures >= http.patience().attempts {
            let cause = BlobError::Shorter { expected: size, found: sink.written() };
            return Err(SinkError::Refused { digest, cause }.into());
        }
        tokio::time::sleep(http.patience().pause * 2_u32.saturating_pow(failures)).await;
    }
    Ok(sink)
}

/// One request for what `sink` lacks. The sink comes back unless this process is going down.
async fn fetch(
    http: &Http,
    source: &impl Source,
    sink: Sink,
    done: &AtomicU64,
) -> (Option<Sink>, Result<(), RegistryError>) {
    let from = sink.written();
    let mut response = match request(source, &sink).await {
        Ok(response) => response,
        Err(error) => return (Some(sink), Err(error)),
    };
    let mut sink = sink;
    if response.status() == StatusCode::OK && from > 0 {
        // It gives only whole ones.
        done.fetch_sub(from, Ordering::Relaxed);
        if let Err(error) = sink.restart() {
            return (Some(sink), Err(SinkError::from(error).into()));
        }
    }
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        let next = http.next(&mut response).await;
        let is_end = !matches!(next, Ok(Some(_)));
        if let Ok(Some(bytes)) = &next {
            piece.extend_from_slice(bytes);
        }
        if piece.len() >= PIECE || (is_end && !piece.is_empty()) {
            let bytes = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
            let count = bytes.len() as u64;
            let written = tokio::task::spawn_blocking(move || {
                let written = sink.write(&bytes);
                (sink, written)
            });
            let Ok((returned, written)) = written.await else {
                return (None, Err(RegistryError::Stopped));
            };
            sink = returned;
            if let Err(error) = written {
                return (Some(sink), Err(error.into()));
            }
            done.fetch_add(count, Ordering::Relaxed);
        }
        match next {
            Ok(Some(_)) => {}
            Ok(None) => return (Some(sink), Ok(())),
            Err(error) => return (Some(sink), Err(error)),
        }
    }
}

async fn request(source: &impl Source, sink: &Sink) -> Result<Response<Incoming>, RegistryError> {
    let (digest, size, from) = (sink.digest(), sink.size(), sink.written());
    let mut headers = HeaderMap::new();
    if from > 0 {
        let range = HeaderValue::from_str(&format!("bytes={from}-")).expect("a number is plain");
        headers.insert(header::RANGE, range);
    }
    let response = source.request(&headers).await?;
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let expected = match response.status() {
        StatusCode::OK => size,
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            let range = text(header::CONTENT_RANGE).unwrap_or_default();
            if !is_part(range, from, size) {
                return Err(RegistryError::WrongPart { digest });
            }
            size - from
        }
        _ => return Err(source.refuse(response).await),
    };
    // What will be wrong need not be fetched.
    let stated = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let refused = |cause| Err(SinkError::Refused { digest, cause }.into());
    match stated {
        Some(length) if length > expected => refused(BlobError::Longer { expected: size }),
        Some(length) if length < expected => {
            refused(BlobError::Shorter { expected: size, found: size - expected + length })
        }
        _ => Ok(response),
    }
}

/// Whether `range`, a `Content-Range`, is a part from byte `from` on of a file of `size` bytes (RFC 9110, section 14.4).
fn is_part(range: &str, from: u64, size: u64) -> bool {
    let parse = || {
        let (part, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let total = if total == "*" { size } else { total.parse().ok()? };
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total))
    };
    parse()
        .is_some_and(|(first, last, total)| first == from && (first..total).contains(&last) && total == size)
}

#[cfg(test)]
mod tests {
    use super::is_part;

    #[test]
    fn parts() {
        let check = |range: &str, expected: bool| assert_eq!(is_part(range, 10, 100), expected, "{range}");
        check("bytes 10-99/100", true);
        check("bytes 10-99/*", true);
        check("bytes 10-49/100", true);
        for wrong in [
            "",
            "bytes",
            "bytes 10-99",
            "bytes 0-99/100",
            "bytes 9-99/100",
            "bytes 100-99/100",
            "bytes 10-9/100",
            "bytes 10-100/100",
            "bytes 10-99/101",
            "bytes 10-99/99",
            "bytes */100",
            "bytes 10-/100",
            "bytes -10-99/100",
            "items 10-99/100",
        ] {
            check(wrong, false);
        }
    }
}
