// SPDX-License-Identifier: Apache-2.0
//! Talks to the control plane's registry for the CLI's verbs.
//!
//! Invariant: an error names the control plane or the resource, and says what to do.

use anyhow::{Result, anyhow};
use clap::Args;
use nodemesh_proto::v1::registry_client::RegistryClient;
use tonic::{Code, Status};

use crate::control::{
    Connection, ControlArgs, ControlClient, ControlUrl,
    channel::{MAX_MESSAGE_BYTES, describe},
};

/// Where the control plane is if nothing says so.
const DEFAULT_URL: &str = "http://127.0.0.1:15010";
const PROGRAM: &str = "nodemesh";

/// The control plane, for a verb.
#[derive(Args, Clone, Debug)]
pub(super) struct Registry {
    #[command(flatten)]
    control: ControlArgs,
}

/// A client of the registry.
pub(super) type Client = RegistryClient<Connection>;

impl Registry {
    /// Connects to the first control plane that answers.
    pub(super) async fn connect(&self) -> Result<Client> {
        let control = self.control()?;
        let mut errors = Vec::new();
        for url in control.urls() {
            match connect(&control, url).await {
                Ok(client) => return Ok(client),
                Err(error) => errors.push(error.to_string()),
            }
        }
        Err(anyhow!(
            "no control plane answers; name one with --control or NODEMESH_CONTROL:\n  {}",
            errors.join("\n  ")
        ))
    }

    /// What opens connections, for a verb that keeps one.
    pub(super) fn control(&self) -> Result<ControlClient> {
        let mut args = self.control.clone();
        if args.control.is_empty() {
            args.control.push(DEFAULT_URL.parse()?);
        }
        args.check()?;
        Ok(ControlClient::new(args, PROGRAM))
    }
}

/// Connects to `url`.
pub(super) async fn connect(
    control: &ControlClient,
    url: &ControlUrl,
) -> Result<Client, crate::control::channel::ConnectError> {
    let connection = control.connect(url, true).await?;
    Ok(RegistryClient::new(connection).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// What the control plane answered, in a sentence with the remedy.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    let message = status.message();
    match status.code() {
        Code::Unauthenticated => anyhow!(
            "the control plane does not know who this is ({message}); prove it with --control-token-file, or --control-cert and --control-key"
        ),
        Code::PermissionDenied => {
            anyhow!("not allowed: {message}; use a token or a certificate of a role that may do it")
        }
        Code::Unavailable => {
            let cause = std::error::Error::source(status).map_or_else(|| message.to_owned(), describe);
            anyhow!("the control plane went away ({cause})")
        }
        Code::Unimplemented => anyhow!(
            "the control plane does not offer this ({message}); is --control the address of a nodemesh-control of this version?"
        ),
        Code::Aborted => anyhow!("it was changed by somebody else in between: {message}; try again"),
        _ if std::error::Error::source(status).is_some() => anyhow!(
            "the connection to the control plane broke ({}); does the URL's scheme, http or https, fit?",
            describe(status)
        ),
        _ if message.is_empty() => anyhow!("the control plane answered {:?}", status.code()),
        _ => anyhow!("{message}"),
    }
}

/// Runs the work of a verb.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_says_what_to_do() {
        for (status, expected) in [
            (Status::unauthenticated("no token"), "--control-token-file"),
            (Status::permission_denied("viewer"), "role"),
            (Status::unavailable("gone"), "went away (gone)"),
            (Status::unimplemented("x"), "nodemesh-control"),
            (Status::aborted("version 4, not 3"), "version 4, not 3"),
            (
                Status::invalid_argument("spec.ports[0].port: 0 is no port"),
                "spec.ports[0].port",
            ),
            (Status::new(Code::DataLoss, ""), "DataLoss"),
        ] {
            let text = explain(&status).to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
