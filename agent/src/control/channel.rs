// SPDX-License-Identifier: Apache-2.0
//! Opens connections to a control plane.
//!
//! Invariant: certificates and token are read for each connection, so that a rotated one is used by the next.

use std::{fs, path::Path, time::Duration};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{ControlArgs, ControlUrl};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing was heard for this long is asked whether it still is one, by TCP.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// By TCP, so many times in these intervals.
const TCP_PROBES: (u32, Duration) = (2, Duration::from_secs(5));
/// The same by HTTP/2, which a peer that hangs does not answer either.
const HTTP2_IDLE: Duration = Duration::from_secs(20);
const HTTP2_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message that is taken.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What calls go through: a connection that adds the token to each.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file of ours cannot be used.
    #[error("read {path}: {cause}; {flag} must name a readable file")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The token is not one.
    #[error(
        "the token in {path} is empty or has characters that no header may have; --control-token-file must hold one line of text"
    )]
    Token {
        /// The file.
        path: String,
    },
    /// The peer is not there or is not to be trusted.
    #[error("connect to {url}: {}", describe(.cause))]
    Transport {
        /// The peer.
        url: String,
        /// Why.
        cause: tonic::transport::Error,
    },
}

/// The innermost cause says what happened; the outer ones only that something did.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

/// Adds the token to each request.
#[derive(Clone, Debug, Default)]
pub struct Bearer {
    header: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Opens connections by the flags.
#[derive(Clone, Debug)]
pub struct ControlClient {
    args: ControlArgs,
    user_agent: String,
}

impl ControlClient {
    /// By `args`, which were checked; `program` introduces itself to the control plane.
    pub fn new(args: ControlArgs, program: &str) -> Self {
        Self {
            args,
            user_agent: format!("{program}/{}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// The URLs, in order of preference.
    pub fn urls(&self) -> &[ControlUrl] {
        &self.args.control
    }

    /// Connects to `url`. `pings` are sent over HTTP/2 to see whether the peer still answers, which some servers do not like.
    pub async fn connect(&self, url: &ControlUrl, pings: bool) -> Result<Connection, ConnectError> {
        let bearer = self.bearer()?;
        let failed = |cause| ConnectError::Transport {
            url: url.to_string(),
            cause,
        };
        let mut endpoint = Endpoint::from_shared(url.to_string())
            .and_then(|endpoint| endpoint.user_agent(self.user_agent.clone()))
            .map_err(failed)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_IDLE))
            .tcp_keepalive_retries(Some(TCP_PROBES.0))
            .tcp_keepalive_interval(Some(TCP_PROBES.1));
        if pings {
            endpoint = endpoint
                .http2_keep_alive_interval(HTTP2_IDLE)
                .keep_alive_timeout(HTTP2_TIMEOUT)
                .keep_alive_while_idle(true);
        }
        if url.is_tls() {
            endpoint = endpoint.tls_config(self.tls()?).map_err(failed)?;
        }
        let channel = endpoint.connect().await.map_err(failed)?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn bearer(&self) -> Result<Bearer, ConnectError> {
        let Some(path) = &self.args.control_token_file else {
            return Ok(Bearer::default());
        };
        let token = read("--control-token-file", path)?;
        let wrong = || ConnectError::Token {
            path: path.display().to_string(),
        };
        let token = String::from_utf8(token).map_err(|_| wrong())?;
        let token = token.trim();
        if token.is_empty() {
            return Err(wrong());
        }
        let mut header: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| wrong())?;
        header.set_sensitive(true);
        Ok(Bearer { header: Some(header) })
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectError> {
        let args = &self.args;
        let mut tls = ClientTlsConfig::new();
        if let Some(path) = &args.control_ca {
            tls = tls.ca_certificate(Certificate::from_pem(read("--control-ca", path)?));
        }
        if let Some((certificate, key)) = args.control_cert.as_deref().zip(args.control_key.as_deref()) {
            let identity =
                Identity::from_pem(read("--control-cert", certificate)?, read("--control-key", key)?);
            tls = tls.identity(identity);
        }
        if let Some(name) = &args.control_name {
            tls = tls.domain_name(name.clone());
        }
        Ok(tls)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|cause| ConnectError::File {
        flag,
        path: path.display().to_string(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token(text: &str) -> Result<Bearer, ConnectError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        let args = ControlArgs {
            control_token_file: Some(path),
            ..ControlArgs::default()
        };
        ControlClient::new(args, "test").bearer()
    }

    #[test]
    fn the_token_is_sent_as_it_is_in_its_file_and_never_printed() {
        let mut bearer = with_token("s3cret\n").unwrap();
        assert!(!format!("{bearer:?}").contains("s3cret"));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
    }

    #[test]
    fn a_token_that_is_none_is_refused_by_the_name_of_its_file() {
        for text in ["", "\n", "two\nlines", "b\u{1}d"] {
            let error = with_token(text).map(drop).unwrap_err().to_string();
            assert!(error.contains("/token") && !error.contains("two"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_its_flag() {
        let args = ControlArgs {
            control_ca: Some("/nonexistent/ca.pem".into()),
            ..ControlArgs::default()
        };
        let error = ControlClient::new(args, "test")
            .tls()
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/ca.pem") && error.contains("--control-ca"),
            "{error}"
        );
    }
}
