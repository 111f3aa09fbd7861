// SPDX-License-Identifier: Apache-2.0
//! How this node introduces itself to a control plane.

use nodemesh_proto::xds::envoy::config::core::v3::{
    BuildVersion, Locality, Node, node::UserAgentVersionType,
};
use nodemesh_proto::xds::envoy::r#type::v3::SemanticVersion;

use crate::config::AgentConfig;

/// Name of this software in requests.
pub const USER_AGENT: &str = "nodemesh-agent";

/// The node of `config`.
pub fn node(config: &AgentConfig) -> Node {
    let locality = config.locality.as_deref().map(|locality| {
        let (region, zone) = locality.split_once('/').unwrap_or((locality, ""));
        Locality {
            region: region.to_owned(),
            zone: zone.to_owned(),
            ..Locality::default()
        }
    });
    Node {
        id: config.node_name(),
        locality,
        user_agent_name: USER_AGENT.to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(semantic_version(env!("CARGO_PKG_VERSION"))),
            ..BuildVersion::default()
        })),
        ..Node::default()
    }
}

fn semantic_version(text: &str) -> SemanticVersion {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    SemanticVersion {
        major_number: next(),
        minor_number: next(),
        patch: next(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::AgentCli;

    #[test]
    fn the_node_is_told_by_the_flags() {
        let flags = [
            "agent",
            "run",
            "--control",
            "http://[::1]:1",
            "--node-name",
            "gpu-7",
            "--locality",
            "eu/a",
        ];
        let AgentCli::Run(config) = AgentCli::parse_from(flags) else {
            panic!("the command is run")
        };
        let told = node(&config);
        let locality = told.locality.unwrap();
        assert_eq!(
            (told.id.as_str(), locality.region.as_str(), locality.zone.as_str()),
            ("gpu-7", "eu", "a")
        );
        assert_eq!(
            semantic_version("1.2.3-rc"),
            SemanticVersion {
                major_number: 1,
                minor_number: 2,
                patch: 0
            }
        );
    }

    #[test]
    fn without_a_name_it_is_that_of_the_host() {
        let AgentCli::Run(config) = AgentCli::parse_from(["agent", "run", "--control", "http://[::1]:1"])
        else {
            panic!("the command is run")
        };
        let uts = nix::sys::utsname::uname().unwrap();
        assert_eq!(node(&config).id, uts.nodename().to_string_lossy());
    }
}
