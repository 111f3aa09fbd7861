// SPDX-License-Identifier: Apache-2.0
//! The flags of the packet path.
//!
//! Invariant: without an interface the path is off, whatever the other flags say.

use std::{net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use nodemesh_abi::{
    FlowSettings, Ip16,
    flow::FlowState,
    limits::{TRACKS, index_sets},
};

/// Which interfaces, which addresses, how many flows and for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Packet path")]
pub struct PacketArgs {
    /// Interface on which packets for services with a packet path are taken: a name, a pattern that ends in `*`, or `default` for those
    /// with a default route. May be repeated; without it the packet path is off.
    #[arg(
        long,
        env = "NODEMESH_PACKET_INTERFACE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub packet_interface: Vec<InterfacePattern>,

    /// Address of this node from which backends are spoken to where the client's is not kept; at most one per family. By default the
    /// first of the interfaces above.
    #[arg(
        long,
        env = "NODEMESH_PACKET_NAT_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub packet_nat_address: Vec<IpAddr>,

    /// Ports of that address; they must lie outside `net.ipv4.ip_local_port_range`.
    #[arg(
        long,
        env = "NODEMESH_PACKET_NAT_PORTS",
        value_name = "FIRST-LAST",
        default_value = "10240-32767"
    )]
    pub packet_nat_ports: PortRange,

    /// Whether packets of known flows that leave where they came in are translated by XDP: `auto` where the driver can do it natively.
    #[arg(long, env = "NODEMESH_PACKET_XDP", value_enum, default_value_t = XdpChoice::Off)]
    pub packet_xdp: XdpChoice,

    /// Most flows that are tracked at once, set when the maps are created. By default what a 512th of the machine's memory holds at 196
    /// bytes each, between 16384 and 1048576.
    #[arg(long, env = "NODEMESH_MAX_FLOWS", value_name = "N", value_parser = clap::value_parser!(u32).range(64..=16_777_216))]
    pub max_flows: Option<u32>,

    /// Time without a packet after which a flow in a state ends, such as established=12h. May be repeated.
    #[arg(
        long,
        env = "NODEMESH_FLOW_TIMEOUT",
        value_name = "STATE=DURATION",
        value_delimiter = ','
    )]
    pub flow_timeout: Vec<FlowTimeout>,
}

/// Memory of the machine per byte that the table of flows may take.
const MEMORY_SHARE: u64 = 512;
/// What a flow takes: its row, its share of the index, and its place in the queue of free rows.
const FLOW_BYTES: u64 = 196;
/// Bounds of the default number of flows.
const FLOWS: (u64, u64) = (1 << 14, 1 << 20);
/// Flows of a node without a packet path: the maps must have some size.
const FEW: u32 = 1_024;

impl PacketArgs {
    /// Whether there is a packet path.
    pub fn is_on(&self) -> bool {
        !self.packet_interface.is_empty()
    }

    /// Most flows on a machine with `memory` bytes.
    pub fn flows(&self, memory: u64) -> u32 {
        if !self.is_on() {
            return FEW;
        }
        let default = || (memory / MEMORY_SHARE / FLOW_BYTES).clamp(FLOWS.0, FLOWS.1) as u32;
        self.max_flows.unwrap_or_else(default)
    }

    /// Refuses what a flag alone cannot tell to be wrong; an error names the flag.
    pub fn check(&self) -> anyhow::Result<()> {
        let of_family = |is_v4: bool| {
            let mut addresses = self.packet_nat_address.iter();
            addresses
                .by_ref()
                .filter(|address| address.is_ipv4() == is_v4)
                .count()
        };
        anyhow::ensure!(
            of_family(true) <= 1 && of_family(false) <= 1,
            "--packet-nat-address: {:?} has two addresses of one family; give at most one of each",
            self.packet_nat_address
        );
        Ok(())
    }

    /// What the programs are told: `seed` is that of the table, which has `rows` rows and `sets` sets; `found` are addresses of the
    /// attached interfaces, taken where none was given.
    pub fn settings(&self, seed: u64, (rows, sets): (u32, u32), found: &[IpAddr]) -> FlowSettings {
        let address = |is_v4: bool| {
            let mut known = self.packet_nat_address.iter().chain(found);
            let own = known.find(|address| address.is_ipv4() == is_v4);
            own.map_or(Ip16::UNSPECIFIED, |address| (*address).into())
        };
        let mut timeouts_s = FlowSettings::TIMEOUTS_S;
        for FlowTimeout { state, timeout } in &self.flow_timeout {
            timeouts_s[*state as usize] = timeout.as_secs().try_into().unwrap_or(u32::MAX);
        }
        let ports = &self.packet_nat_ports.0;
        FlowSettings {
            seed,
            nat4: address(true),
            nat6: address(false),
            rows,
            sets,
            nat_first: *ports.start(),
            nat_last: *ports.end(),
            timeouts_s,
        }
    }
}

/// Sets of `track_index` for a table of `flows`.
pub fn sets(flows: u32) -> u32 {
    index_sets(flows)
}

const _: () = assert!(TRACKS > FEW);

/// Which interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfacePattern {
    /// Those that have a default route.
    DefaultRoute,
    /// The one of this name.
    Name(String),
    /// Those whose names begin so.
    Prefix(String),
}

impl FromStr for InterfacePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LONGEST: usize = 15;
        let prefix = text.strip_suffix('*');
        let name = prefix.unwrap_or(text);
        let is_name = |char: char| char.is_ascii_graphic() && !matches!(char, '/' | ':' | '*' | '?' | '[');
        if name.len() > LONGEST || !name.chars().all(is_name) || text.is_empty() {
            return Err(format!(
                "{text:?} is no interface; write a name of up to {LONGEST} characters, a pattern such as eth*, or default"
            ));
        }
        Ok(match prefix {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None if text == "default" => Self::DefaultRoute,
            None => Self::Name(text.to_owned()),
        })
    }
}

/// A range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

/// Fewest ports with which a free one is found soon.
const FEWEST_PORTS: u16 = 1_024;

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no range of ports; write FIRST-LAST, at least {FEWEST_PORTS} of 1024 to 65535"
            )
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last): (u16, u16) = (
            first.trim().parse().map_err(|_| wrong())?,
            last.trim().parse().map_err(|_| wrong())?,
        );
        if first < 1_024 || last < first || last - first < FEWEST_PORTS - 1 {
            return Err(wrong());
        }
        Ok(Self(first..=last))
    }
}

/// Where XDP is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpChoice {
    /// Nowhere.
    Off,
    /// Where the driver can run it natively.
    Auto,
    /// The same, and by the kernel's generic hook elsewhere.
    Generic,
}

/// How long a flow in a state is kept without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeout {
    state: FlowState,
    timeout: Duration,
}

/// Longest timeout: the clock of a row goes round after 52 days.
const LONGEST: Duration = Duration::from_secs(24 * 86_400);

impl FromStr for FlowTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let states = || {
            FlowState::ALL
                .into_iter()
                .filter(|state| *state != FlowState::Free)
        };
        let (word, duration) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} is no timeout; write STATE=DURATION, such as established=12h")
        })?;
        let state = states().find(|state| state.label() == word).ok_or_else(|| {
            let known: Vec<_> = states().map(FlowState::label).collect();
            format!("{word:?} is no state of a flow; use one of {}", known.join(", "))
        })?;
        let timeout =
            humantime::parse_duration(duration).map_err(|error| format!("{duration:?}: {error}"))?;
        if timeout.subsec_nanos() != 0 || timeout.is_zero() || timeout > LONGEST {
            return Err(format!(
                "{duration:?} is out of range; use whole seconds, 1s to 24days"
            ));
        }
        Ok(Self { state, timeout })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        packet: PacketArgs,
    }

    fn args(flags: &[&str]) -> PacketArgs {
        Cli::parse_from(["agent"].iter().chain(flags)).packet
    }

    fn error(flags: &[&str]) -> String {
        let parsed = Cli::try_parse_from(["agent"].iter().chain(flags));
        parsed.err().expect("an error").to_string()
    }

    #[test]
    fn the_path_is_off_unless_an_interface_is_named() {
        assert!(!args(&["--max-flows", "4096"]).is_on());
        assert_eq!(args(&[]).flows(16 << 30), FEW);
        let on = args(&[
            "--packet-interface",
            "default,eth*",
            "--packet-interface",
            "bond0",
        ]);
        assert_eq!(
            on.packet_interface,
            [
                InterfacePattern::DefaultRoute,
                InterfacePattern::Prefix("eth".to_owned()),
                InterfacePattern::Name("bond0".to_owned())
            ]
        );
        let flows = |gib: u64| on.flows(gib << 30);
        assert_eq!([1, 4, 16, 128].map(flows), [16_384, 42_799, 171_196, 1_048_576]);
    }

    #[test]
    fn what_is_wrong_names_the_remedy() {
        let cases: [(&[&str], &str); 7] = [
            (&["--packet-interface", "eth0/1"], "a pattern such as eth*"),
            (&["--packet-interface", ""], "a pattern such as eth*"),
            (&["--packet-nat-ports", "20000"], "FIRST-LAST"),
            (
                &["--packet-nat-ports", "20000-20100"],
                "at least 1024 of 1024 to 65535",
            ),
            (
                &["--flow-timeout", "idle=3s"],
                "use one of syn_sent, syn_received",
            ),
            (&["--flow-timeout", "established"], "STATE=DURATION"),
            (&["--flow-timeout", "established=90days"], "1s to 24days"),
        ];
        for (flags, expected) in cases {
            let error = error(flags);
            assert!(error.contains(expected), "{error}");
        }
        let two = args(&["--packet-nat-address", "10.0.0.1,10.0.0.2"]);
        assert!(
            two.check()
                .unwrap_err()
                .to_string()
                .contains("--packet-nat-address")
        );
    }

    #[test]
    fn what_is_given_goes_before_what_is_found() {
        let found: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let given = args(&[
            "--packet-nat-address",
            "10.0.0.1",
            "--flow-timeout",
            "established=12h",
        ]);
        let settings = given.settings(7, (100, 78), &found);
        assert_eq!(IpAddr::from(settings.nat4), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(IpAddr::from(settings.nat6), found[2]);
        assert_eq!(settings.timeouts_s[FlowState::Established as usize], 43_200);
        let other = FlowState::TimeWait as usize;
        assert_eq!(settings.timeouts_s[other], FlowSettings::TIMEOUTS_S[other]);
        assert!(settings.is_on());
        let nowhere = args(&[]).settings(7, (100, 78), &[]);
        assert_eq!(nowhere.nat4, Ip16::UNSPECIFIED);
    }
}
