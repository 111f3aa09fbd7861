// SPDX-License-Identifier: Apache-2.0
//! Who has the service's addresses or listens on its port: nobody should.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use anyhow::Result;

use super::mesh;
use crate::netns::NetNs;

/// Listeners on the service's port and holders of its addresses in one network namespace.
pub(super) fn inside(netns: &NetNs) -> Result<Vec<String>> {
    let look = || -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for table in ["tcp", "tcp6"] {
            let sockets = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
            found.extend(sockets.lines().filter(|line| listens(line)).map(str::to_owned));
        }
        for ip in mesh::VIRTUAL {
            match TcpListener::bind(SocketAddr::new(ip, 0)) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => (),
                Err(error) => return Err(error),
                Ok(_) => found.push(has_address(ip)),
            }
        }
        Ok(found)
    };
    Ok(netns.run(look)??)
}

fn has_address(ip: IpAddr) -> String {
    format!("an interface has {ip}")
}

/// Whether a line of `/proc/net/tcp` is a socket that listens on the service's port.
fn listens(line: &str) -> bool {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let port = fields
        .next()
        .and_then(|local| local.rsplit_once(':'))
        .map(|(_, port)| port);
    let state = fields.nth(1);
    port == Some(&format!("{:04X}", mesh::PORT)) && state == Some(LISTEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_on_the_port_of_the_service_count() {
        let line =
            |port: &str, state: &str| format!("  0: 0B01010A:{port} 00000000:0000 {state} 00000000:00000000");
        assert!(listens(&line("1F40", "0A")));
        assert!(!listens(&line("1F40", "01")));
        assert!(!listens(&line("2328", "0A")));
        assert!(!listens("  sl  local_address rem_address   st tx_queue rx_queue"));
    }
}
