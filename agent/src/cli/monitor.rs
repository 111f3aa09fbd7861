// SPDX-License-Identifier: Apache-2.0
//! `nodemesh monitor`. The agent filters; this shows each event as it comes.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args};

use super::{Output, client::AdminClient, units};
use crate::api::{Event, EventKind, EventQuery};

/// Arguments of `nodemesh monitor`.
#[derive(Args, Debug)]
pub(super) struct Monitor {
    /// Only events of this kind; may be given several times, or with commas.
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    kind: Vec<EventKind>,
    /// Only those about this service (`namespace/name`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only those about this backend (`ip:port`).
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<String>,
    /// Begin with what the agent remembers of this long, such as 30s or 5m; without it, with what comes.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Go on with what comes, until interrupted; `--follow=false` shows what the agent remembers and ends.
    #[arg(short, long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    follow: bool,
}

impl Monitor {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let path = self.path()?;
        let mut stdout = io::stdout().lock();
        let mut lines = Lines::default();
        let shown = agent.stream(&path, |part| {
            lines.append(part, |line| {
                match output {
                    Output::Json => stdout.write_all(line)?,
                    Output::Table => {
                        let event = serde_json::from_slice(line)
                            .context("the agent's answer is not what this version of the CLI expects")?;
                        stdout.write_all(describe(&event).as_bytes())?;
                    }
                }
                stdout.write_all(b"\n")?;
                Ok(())
            })?;
            // Whoever reads a pipe wants to see what happens when it happens.
            Ok(stdout.flush()?)
        });
        match shown {
            // Who read the output has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            Ok(()) if self.follow => anyhow::bail!("the agent has ended"),
            result => result,
        }
    }

    fn path(&self) -> Result<String> {
        let kinds: Vec<&str> = self.kind.iter().map(|kind| kind.word()).collect();
        let query = EventQuery {
            kind: (!kinds.is_empty()).then(|| kinds.join(",")),
            service: self.service.clone(),
            backend: self.backend.clone(),
            since: self.since.map(|since| since.as_secs_f64()),
            follow: self.follow,
        };
        let query = serde_urlencoded::to_string(&query).context("encode the query")?;
        Ok(format!("/v1/events?{query}"))
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().map(io::Error::kind) == Some(io::ErrorKind::BrokenPipe)
}

/// Cuts parts into lines.
#[derive(Debug, Default)]
struct Lines {
    /// Beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Lines {
    fn append(&mut self, part: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.rest.extend_from_slice(part);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        whole
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .try_for_each(&mut each)
    }
}

/// Time, kind, service, client and reason, then what else is known.
fn describe(event: &Event) -> String {
    if event.kind == EventKind::Lost {
        let count = event.count.unwrap_or_default();
        return format!(
            "{} {:<10} {count} events: this reader was behind",
            event.time, "lost"
        );
    }
    let service = event.service.as_ref().or(event.service_address.as_ref());
    let mut line = format!(
        "{} {:<10} {}",
        event.time,
        event.kind.word(),
        service.map_or("-", String::as_str)
    );
    let client = client(event);
    if !client.is_empty() {
        add(&mut line, "client", Some(client));
    }
    add(&mut line, "reason", event.reason.as_ref());
    add(&mut line, "backend", event.backend.as_ref());
    add(&mut line, "workload", event.backend_workload.as_ref());
    add(&mut line, "count", event.count);
    add(&mut line, "for", event.ejected_seconds.map(units::seconds));
    if event.service.is_some() {
        add(&mut line, "dialled", event.service_address.as_ref());
    }
    add(&mut line, "protocol", event.protocol.as_ref());
    line
}

fn add(line: &mut String, key: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        write!(line, " {key}={value}").expect("a string takes everything");
    }
}

/// Whatever names the client: identity or workload, address, process; empty if nothing is known.
fn client(event: &Event) -> String {
    let name = event.client_identity.as_ref().or(event.client_workload.as_ref());
    let mut parts: Vec<String> = name.into_iter().chain(&event.client).cloned().collect();
    parts.extend(event.client_pid.map(|pid| format!("pid:{pid}")));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        monitor: Monitor,
    }

    fn path(arguments: &[&str]) -> String {
        let arguments = [&["monitor"], arguments].concat();
        let only = Only::try_parse_from(arguments).unwrap();
        only.monitor.path().unwrap()
    }

    #[test]
    fn the_question_is_what_was_asked() {
        for (arguments, query) in [
            (&[][..], "follow=true"),
            (&["-f"], "follow=true"),
            (
                &["--follow=false", "--since", "1m 30s"],
                "since=90.0&follow=false",
            ),
            (
                &[
                    "--kind",
                    "refused",
                    "--kind",
                    "ejected,probed",
                    "--service",
                    "a/b",
                ],
                "kind=refused%2Cejected%2Cprobed&service=a%2Fb&follow=true",
            ),
        ] {
            assert_eq!(path(arguments), format!("/v1/events?{query}"));
        }
        assert!(Only::try_parse_from(["monitor", "--kind", "no"]).is_err());
    }

    #[test]
    fn a_line_says_who_what_and_why() {
        let mut event = Event::new(EventKind::Refused, "T".to_owned(), 7);
        event.reason = Some("policy".to_owned());
        event.service_address = Some("10.9.0.1:80".to_owned());
        event.protocol = Some("TCP".to_owned());
        event.client_pid = Some(77);
        assert_eq!(
            describe(&event),
            "T refused    10.9.0.1:80 client=pid:77 reason=policy protocol=TCP"
        );
        event.service = Some("models/chat".to_owned());
        event.client_workload = Some("apps/bot".to_owned());
        event.client = Some("10.1.0.7".to_owned());
        assert_eq!(
            describe(&event),
            "T refused    models/chat client=apps/bot,10.1.0.7,pid:77 reason=policy dialled=10.9.0.1:80 protocol=TCP"
        );
        event.count = Some(12);
        let line = describe(&event);
        assert!(line.contains(" reason=policy count=12 dialled="), "{line}");
        let mut event = Event::new(EventKind::Ejected, "T".to_owned(), 7);
        event.service = Some("models/chat".to_owned());
        event.backend = Some("10.2.0.1:9000".to_owned());
        event.reason = Some("connect".to_owned());
        event.ejected_seconds = Some(2.5);
        assert_eq!(
            describe(&event),
            "T ejected    models/chat reason=connect backend=10.2.0.1:9000 for=2.5s"
        );
        let mut lost = Event::new(EventKind::Lost, "T".to_owned(), 7);
        lost.count = Some(12);
        assert_eq!(describe(&lost), "T lost       12 events: this reader was behind");
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for part in ["a", "b\nc", "\n\nd\ne"] {
            let mut keep = |line: &[u8]| {
                seen.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            lines.append(part.as_bytes(), &mut keep).unwrap();
        }
        assert_eq!(seen, ["ab", "c", "d"]);
        assert_eq!(lines.rest, b"e");
    }
}
