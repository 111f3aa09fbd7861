// SPDX-License-Identifier: Apache-2.0
//! What the open requests of a row are doing, summed up over the records of one pass. Pure.

use std::collections::HashMap;

use nodemesh_abi::{Connection, Meter, Phase};

use super::stall::StallLimits;

/// The activity of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowActivity {
    /// Requests without a byte of response.
    pub requests: u64,
    /// Requests whose response has begun.
    pub responses: u64,
    /// Open HTTP/2 streams.
    pub streams: u64,
    /// Connections whose requests cannot be told apart.
    pub opaque: u64,
    /// Open requests that have been silent for longer than their row's limits allow.
    pub stalled: u64,
    /// Nanoseconds since the latest byte of the open request that has been silent for longest; 0 without one.
    pub quiet_ns: u64,
    /// Open requests that the records hold.
    pub open: u64,
    /// Bytes of these requests that the records hold.
    pub held_bytes: u64,
}

impl RowActivity {
    /// Adds the connection that `meter` is of.
    pub fn add(&mut self, meter: &Meter, limits: StallLimits, now: u64) {
        let open = u64::from(meter.open);
        self.open += open;
        self.held_bytes += meter.held_bytes;
        match Phase::from_raw(meter.phase) {
            Phase::Request => self.requests += open,
            Phase::Response => self.responses += open,
            Phase::Streams => self.streams += open,
            Phase::Opaque => self.opaque += 1,
            Phase::Fresh | Phase::Idle | Phase::Tail => {}
        }
        if open > 0 {
            self.quiet_ns = self.quiet_ns.max(quiet_ns(meter, now));
        }
        if limits.is_stalled(meter, now) {
            self.stalled += open;
        }
    }
}

/// The activity of each row that `connections` name.
pub fn by_row<'a>(
    connections: impl IntoIterator<Item = &'a Connection>,
    limits: impl Fn(u32) -> StallLimits,
    now: u64,
) -> HashMap<u32, RowActivity> {
    let mut rows: HashMap<u32, RowActivity> = HashMap::new();
    for connection in connections {
        let limits = limits(connection.traffic);
        let row = rows.entry(connection.traffic).or_default();
        row.add(&connection.meter, limits, now);
    }
    rows
}

/// Nanoseconds since the latest byte in either direction; 0 if there was none.
pub fn quiet_ns(meter: &Meter, now: u64) -> u64 {
    if meter.last_ns == 0 {
        return 0;
    }
    now.saturating_sub(meter.last_ns)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn connection(row: u32, phase: Phase, open: u32, last_ns: u64) -> Connection {
        let mut connection = Connection::new_zeroed();
        connection.traffic = row;
        connection.meter.phase = phase as u8;
        connection.meter.open = open;
        connection.meter.held_bytes = u64::from(open) * 10;
        connection.meter.last_ns = last_ns;
        connection
    }

    #[test]
    fn each_row_sums_up_its_own_records() {
        let now = 100 * SECOND;
        let records = [
            connection(2, Phase::Request, 1, now - SECOND),
            connection(2, Phase::Response, 1, now - 3 * SECOND),
            connection(2, Phase::Opaque, 0, now - 90 * SECOND),
            connection(3, Phase::Streams, 4, now),
            connection(3, Phase::Idle, 0, now - 50 * SECOND),
        ];
        let limits = StallLimits {
            request_ns: 2 * SECOND,
            response_ns: 2 * SECOND,
        };
        let of_row = |row| if row == 2 { limits } else { StallLimits::default() };
        let rows = by_row(&records, of_row, now);
        let expected = RowActivity {
            requests: 1,
            responses: 1,
            opaque: 1,
            stalled: 1,
            quiet_ns: 3 * SECOND,
            open: 2,
            held_bytes: 20,
            ..RowActivity::default()
        };
        assert_eq!(rows[&2], expected);
        let expected = RowActivity {
            streams: 4,
            open: 4,
            held_bytes: 40,
            ..RowActivity::default()
        };
        assert_eq!(rows[&3], expected);
    }

    #[test]
    fn a_connection_without_bytes_is_not_silent() {
        let fresh = connection(0, Phase::Streams, 1, 0);
        assert_eq!(quiet_ns(&fresh.meter, 5 * SECOND), 0);
    }
}
