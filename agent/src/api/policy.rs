// SPDX-License-Identifier: Apache-2.0
//! Access policies: what `GET /v1/policy` answers to the question who may connect.

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/policy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuery {
    /// `namespace/workload`, an address, or `unknown`.
    pub source: String,
    /// `namespace/service`, or `namespace/service:port`.
    pub service: String,
}

/// Answer of `GET /v1/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The source that was asked about.
    pub source: String,
    /// What policies know it as: a workload, an address, a range of addresses, or `unknown`.
    pub principal: String,
    /// Its SPIFFE ID, or those of all workloads that share its address.
    pub identities: Vec<String>,
    /// Ranges of policies that it is in.
    pub networks: Vec<String>,
    /// What holds for each port of the service.
    pub ports: Vec<PortAccess>,
}

/// What holds for a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAccess {
    /// `namespace/name` of the service.
    pub service: String,
    /// Virtual address.
    pub address: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `allow`, `deny`, `audit`, or `by_address`: let through at connect, and decided at the server's node.
    pub access: String,
    /// What decides; absent if no policy says anything.
    pub rule: Option<String>,
    /// Whether no rule matches, so that a default holds.
    pub default: bool,
    /// Every rule that matches, the strongest first.
    pub matching: Vec<MatchingRule>,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchingRule {
    /// Its policy and name.
    pub rule: String,
    /// `allow`, `deny` or `audit`.
    pub action: String,
}
