// SPDX-License-Identifier: Apache-2.0
//! A Prometheus that scrapes the agent of a node, in the network namespace of the node.
//!
//! Invariant: its data is in the folder of the agent, and it ends with its handle.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::deployed;
use crate::{
    agent::Agent,
    cgroup::Cgroup,
    process::{Place, Process},
    real::tool,
    topology::Node,
};

/// Where it serves, in the network namespace of its node.
const LISTEN: &str = "127.0.0.1:9090";

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus<'a> {
    node: &'a Node,
    _process: Process,
    _cgroup: Cgroup,
}

/// A rule, as Prometheus has read it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Name of the alert or of the recorded series.
    pub name: String,
    /// Its expression.
    pub expression: String,
    /// Whether it is an alert.
    pub alert: bool,
    /// Why its last evaluation failed; empty if it did not.
    pub error: String,
    /// Annotations of an alert.
    pub annotations: Value,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes `agent` of `node` and evaluates the shipped rules, twice a second, and waits until it serves.
    pub fn start(node: &'a Node, agent: &Agent) -> Result<Self> {
        let folder = agent.config().with_file_name("prometheus");
        fs::create_dir(&folder)?;
        let config = folder.join("prometheus.yaml");
        fs::write(&config, configuration())?;
        let cgroup = Cgroup::create(node.cgroup(), "prometheus")?;
        let place = Place {
            netns: node.netns().path(),
            cgroup: cgroup.path().into(),
        };
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={LISTEN}"),
        ];
        let process = Process::spawn(&place, &tool::prometheus("prometheus"), &arguments)?;
        process.wait_for_log(|line| line.contains("Server is ready to receive web requests"))?;
        Ok(Self {
            node,
            _process: process,
            _cgroup: cgroup,
        })
    }

    /// The values of the samples that `expression` has now, without those that are no number.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            write!(encoded, "%{byte:02X}")?;
        }
        let answer = self.ask("POST", "/api/v1/query", &format!("query={encoded}"))?;
        let data = &answer["data"];
        let points: Vec<&Value> = match data["resultType"].as_str() {
            Some("scalar") => vec![&data["result"]],
            _ => data["result"]
                .as_array()
                .context("a result")?
                .iter()
                .map(|sample| &sample["value"])
                .collect(),
        };
        let value = |point: &&Value| point[1].as_str().and_then(|text| text.parse::<f64>().ok());
        Ok(points
            .iter()
            .filter_map(value)
            .filter(|value| !value.is_nan())
            .collect())
    }

    /// The rules.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let answer = self.ask("GET", "/api/v1/rules", "")?;
        let groups = answer["data"]["groups"].as_array().context("groups of rules")?;
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let rules = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        Ok(rules
            .map(|rule| Rule {
                name: text(rule, "name"),
                expression: text(rule, "query"),
                alert: rule["type"] == "alerting",
                error: text(rule, "lastError"),
                annotations: rule["annotations"].clone(),
            })
            .collect())
    }

    fn ask(&self, method: &str, path: &str, form: &str) -> Result<Value> {
        let answer = self.node.netns().run(|| -> Result<String> {
            let mut stream = TcpStream::connect(LISTEN).context("connect to Prometheus")?;
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                form.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        ensure!(head.contains(" 200 "), "{path} {form}: {answer}");
        serde_json::from_str(body).with_context(|| format!("{path}: {body}"))
    }
}

fn configuration() -> String {
    let rules = ["recording.yaml", "alerts.yaml"].map(|file| deployed("prometheus").join(file));
    let [recording, alerts] = rules.map(|file| file.display().to_string());
    format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
         rule_files: [{recording:?}, {alerts:?}]\n\
         scrape_configs:\n- {{job_name: nodemesh, honor_labels: true, static_configs: [{{targets: [\"127.0.0.1:9464\"]}}]}}\n"
    )
}

/// Runs promtool in `folder`, with `input` on its standard input.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new(tool::prometheus("promtool"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    let mut stdin = child.stdin.take().context("the input is piped")?;
    stdin.write_all(input.as_bytes()).context("write to promtool")?;
    drop(stdin);
    child.wait_with_output().context("wait for promtool")
}
