// SPDX-License-Identifier: Apache-2.0
//! The address of a control plane: `http://HOST:PORT` or `https://HOST:PORT`.
//!
//! Invariant: a URL has a host and no path, query or user; without a port it is [`DEFAULT_PORT`].

use std::{fmt, net::IpAddr, str::FromStr};

use hyper::Uri;

/// Port of `nodemesh-control` if a URL names none.
pub const DEFAULT_PORT: u16 = 15010;

/// The URL of a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUrl {
    tls: bool,
    host: String,
    port: u16,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not the URL of a control plane; write http://HOST:PORT or https://HOST:PORT")]
pub struct UrlError {
    found: String,
}

impl ControlUrl {
    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the host is this machine, told by the text alone.
    pub fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for ControlUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError {
            found: text.to_owned(),
        };
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let has_more = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
        if has_more || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        let port = match authority.port() {
            Some(port) => Some(port.as_u16()).filter(|port| *port != 0).ok_or_else(wrong)?,
            None if authority.as_str() == authority.host() => DEFAULT_PORT,
            None => return Err(wrong()),
        };
        Ok(Self {
            tls,
            host: authority.host().to_owned(),
            port,
        })
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written() {
        for (text, expected) in [
            ("http://127.0.0.1:15010", "http://127.0.0.1:15010"),
            ("https://control.example", "https://control.example:15010"),
            ("https://[fd00::1]:443/", "https://[fd00::1]:443"),
            (" http://localhost:1 ", "http://localhost:1"),
        ] {
            assert_eq!(
                text.parse::<ControlUrl>().unwrap().to_string(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_an_example() {
        for text in [
            "",
            "127.0.0.1:15010",
            "grpc://a:1",
            "http://",
            "http://a:0",
            "http://a:99999",
            "http://a:/",
            "http://u:p@a:1",
            "https://a:1/path",
            "https://a:1?q=1",
        ] {
            let error = text.parse::<ControlUrl>().map(drop).unwrap_err().to_string();
            assert!(error.contains("https://HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn loopback_is_told_by_the_text() {
        let is_loopback = |text: &str| text.parse::<ControlUrl>().unwrap().is_loopback();
        assert!(
            is_loopback("http://127.0.0.9:1")
                && is_loopback("http://[::1]:1")
                && is_loopback("http://localhost:1")
        );
        assert!(!is_loopback("http://10.0.0.1:1") && !is_loopback("http://localhost.example:1"));
    }
}
