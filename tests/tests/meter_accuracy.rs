// SPDX-License-Identifier: Apache-2.0
//! How right the meter is: what it tells of every request, beside what the server and the client of that request logged.
//!
//! Each test runs for both ways in which the meter sees bytes, and some for bytes that take the shortcut past TCP. The errors of all times also go to `meter_accuracy-<path>.md` in the
//! target directory, for the documentation.

#[path = "meter_accuracy/ambiguous.rs"]
mod ambiguous;
#[path = "meter_accuracy/endings.rs"]
mod endings;
#[path = "meter_accuracy/errors.rs"]
mod errors;
#[path = "meter_accuracy/lab.rs"]
mod lab;
#[path = "meter_accuracy/line.rs"]
mod line;
#[path = "meter_accuracy/noise.rs"]
mod noise;
#[path = "meter_accuracy/shape.rs"]
mod shape;
#[path = "meter_accuracy/table.rs"]
mod table;
#[path = "meter_accuracy/times.rs"]
mod times;

macro_rules! on_path {
    ($path:ident: $($name:ident: $body:path;)*) => {
        mod $path {
            $(
                #[test]
                fn $name() {
                    $body(stringify!($path));
                }
            )*
        }
    };
}

macro_rules! on_both_paths {
    ($($name:ident: $body:path;)*) => {
        on_path!(tracepoint: $($name: $body;)*);
        on_path!(packet: $($name: $body;)*);
    };
}

on_path! {
    shortcut:
    times_gaps_and_chunks_are_those_that_were_logged: crate::times::all_shapes;
}

on_both_paths! {
    times_gaps_and_chunks_are_those_that_were_logged: crate::times::all_shapes;
    a_client_that_gives_up_is_told_as_by_the_server: crate::endings::give_up;
    a_server_that_breaks_off_is_told_as_by_the_server: crate::endings::break_off;
    a_keep_alive_race_is_told_at_the_client: crate::endings::race;
    pipelined_requests_are_ambiguous: crate::ambiguous::pipelined;
    upgrades_and_http2_under_tls_are_ambiguous: crate::ambiguous::other_protocols;
}
