//! The query of a request's URI.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use hyper::Uri;

/// The value of `name`, percent-decoded; `None` where it is not there or malformed.
#[must_use]
pub fn value(uri: &Uri, name: &str) -> Option<Vec<u8>> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        if key == name { decode(value) } else { None }
    })
}

/// The same as an absolute path.
#[must_use]
pub fn path(uri: &Uri, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(value(uri, name)?));
    (path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)).then_some(path)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let uri: Uri = "/v1/tree?x=1&path=%2Froot%2Fa%20b%ff&bad=%2&worse=%zz&rel=a".parse().unwrap();
        assert_eq!(path(&uri, "path"), Some(OsString::from_vec(b"/root/a b\xff".to_vec()).into()));
        assert_eq!(value(&uri, "x"), Some(b"1".to_vec()));
        for name in ["bad", "worse", "none", "rel"] {
            assert_eq!(path(&uri, name), None, "{name}");
        }
    }
}
