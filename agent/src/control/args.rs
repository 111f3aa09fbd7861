// SPDX-License-Identifier: Apache-2.0
//! The flags that say how the control plane is reached, for the agent and for each verb of the CLI.
//!
//! Invariant: flags that contradict each other are refused before anything is connected.

use std::path::PathBuf;

use clap::Args;

use super::ControlUrl;

/// Where the control plane is and how it is trusted.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Control plane")]
pub struct ControlArgs {
    /// URL of the control plane, http://HOST:PORT or https://HOST:PORT. Several, separated by commas, are replicas: when one goes
    /// away the next is asked.
    #[arg(long, env = "NODEMESH_CONTROL", value_name = "URL", value_delimiter = ',')]
    pub control: Vec<ControlUrl>,

    /// PEM file with the certificates that the control plane's certificate must come from; required for https.
    #[arg(long, env = "NODEMESH_CONTROL_CA", value_name = "FILE")]
    pub control_ca: Option<PathBuf>,

    /// PEM file with the certificate that proves who this client is; read again for each connection.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_CERT",
        value_name = "FILE",
        requires = "control_key"
    )]
    pub control_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_KEY",
        value_name = "FILE",
        requires = "control_cert"
    )]
    pub control_key: Option<PathBuf>,

    /// File with the token that proves who this client is; read again for each connection.
    #[arg(long, env = "NODEMESH_CONTROL_TOKEN_FILE", value_name = "FILE")]
    pub control_token_file: Option<PathBuf>,

    /// Name that the control plane's certificate must be for, if it is not the host of the URL.
    #[arg(long, env = "NODEMESH_CONTROL_NAME", value_name = "NAME")]
    pub control_name: Option<String>,

    /// Allow http:// to other machines: everybody on the way can read and change what the mesh does.
    #[arg(long, env = "NODEMESH_CONTROL_PLAINTEXT")]
    pub control_plaintext: bool,
}

/// Flags that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlArgsError {
    /// Plaintext to another machine.
    #[error(
        "--control {0} would be plaintext to another machine; use https://, or allow it with --control-plaintext"
    )]
    Plaintext(String),
    /// TLS without anything to trust.
    #[error("--control {0} needs --control-ca FILE, the certificates to trust")]
    NoCa(String),
    /// A token that everybody on the way could read.
    #[error(
        "--control-token-file is for https:// or this machine only: {0} would send the token in plaintext"
    )]
    PlaintextToken(String),
    /// A certificate that no connection would show.
    #[error("--control-cert needs an https:// URL; {0} has no TLS")]
    UselessCertificate(String),
}

impl ControlArgs {
    /// Checks the flags against each other.
    pub fn check(&self) -> Result<(), ControlArgsError> {
        for url in &self.control {
            let shown = url.to_string();
            if url.is_tls() {
                if self.control_ca.is_none() {
                    return Err(ControlArgsError::NoCa(shown));
                }
                continue;
            }
            if !url.is_loopback() && !self.control_plaintext {
                return Err(ControlArgsError::Plaintext(shown));
            }
            if !url.is_loopback() && self.control_token_file.is_some() {
                return Err(ControlArgsError::PlaintextToken(shown));
            }
            if self.control_cert.is_some() {
                return Err(ControlArgsError::UselessCertificate(shown));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        control: ControlArgs,
    }

    fn parse(flags: &[&str]) -> ControlArgs {
        let command = std::iter::once("test").chain(flags.iter().copied());
        Cli::try_parse_from(command).unwrap().control
    }

    #[test]
    fn several_urls_are_replicas_in_order() {
        let args = parse(&["--control", "http://127.0.0.1:1,http://[::1]:2"]);
        let urls: Vec<String> = args.control.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://127.0.0.1:1", "http://[::1]:2"]);
        assert_eq!(args.check(), Ok(()));
    }

    #[test]
    fn what_would_be_unsafe_is_refused_with_the_remedy() {
        for (flags, expected) in [
            (&["--control", "http://10.0.0.1:1"][..], "--control-plaintext"),
            (&["--control", "http://127.0.0.1:1,http://10.0.0.1:1"], "10.0.0.1"),
            (&["--control", "https://10.0.0.1:1"], "--control-ca"),
            (
                &[
                    "--control",
                    "http://10.0.0.1:1",
                    "--control-plaintext",
                    "--control-token-file",
                    "t",
                ],
                "--control-token-file",
            ),
            (
                &[
                    "--control",
                    "http://127.0.0.1:1",
                    "--control-cert",
                    "c",
                    "--control-key",
                    "k",
                ],
                "--control-cert",
            ),
        ] {
            let error = parse(flags).check().unwrap_err().to_string();
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
        assert_eq!(
            parse(&["--control", "http://10.0.0.1:1", "--control-plaintext"]).check(),
            Ok(())
        );
        assert_eq!(
            parse(&["--control", "https://a:1", "--control-ca", "ca.pem"]).check(),
            Ok(())
        );
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(Cli::try_parse_from(["test", "--control-cert", "c"]).is_err());
        assert!(Cli::try_parse_from(["test", "--control-key", "k"]).is_err());
    }
}
