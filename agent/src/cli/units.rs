// SPDX-License-Identifier: Apache-2.0
//! Durations, sizes and rates as people read them in a table: short, without blanks.

/// Seconds: `85us`, `1.2ms`, `340ms`, `4.7s`, `3m12s`, `2h05m`, `3d07h`.
pub(super) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds <= 0.0 {
        return "0s".to_owned();
    }
    if seconds < 0.001 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 0.1 {
        format!("{:.1}ms", seconds * 1e3)
    } else if seconds < 1.0 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        #[expect(clippy::cast_sign_loss, reason = "positive, as checked above")]
        let whole = seconds as u64;
        let (large, small, words) = match whole {
            0..3_600 => (whole / 60, whole % 60, ("m", "s")),
            3_600..86_400 => (whole / 3_600, whole % 3_600 / 60, ("h", "m")),
            _ => (whole / 86_400, whole % 86_400 / 3_600, ("d", "h")),
        };
        format!("{large}{}{small:02}{}", words.0, words.1)
    }
}

/// The same, or a dash.
pub(super) fn maybe_seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), seconds)
}

/// Bytes, in powers of 1024: `512`, `1.5K`, `20M`, `3.0G`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "";
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    if unit.is_empty() || value >= 10.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// So many per second: one decimal up to 100.
pub(super) fn rate(per_second: f64) -> String {
    if per_second == 0.0 {
        "0".to_owned()
    } else if per_second < 100.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (value, expected) in [
            (0.0, "0s"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
            (0.000_085, "85us"),
            (0.001_23, "1.2ms"),
            (0.34, "340ms"),
            (4.72, "4.7s"),
            (192.0, "3m12s"),
            (7_500.0, "2h05m"),
            (285_000.0, "3d07h"),
        ] {
            assert_eq!(seconds(value), expected, "{value}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (value, expected) in [
            (0, "0"),
            (1_023, "1023"),
            (1_536, "1.5K"),
            (20 << 20, "20M"),
            (3 << 30, "3.0G"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(bytes(value), expected, "{value}");
        }
    }

    #[test]
    fn rates_have_a_decimal_where_it_matters() {
        assert_eq!(
            [rate(0.0), rate(0.5), rate(99.94), rate(1_234.5)],
            ["0", "0.5", "99.9", "1234"]
        );
    }
}
