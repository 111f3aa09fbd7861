// SPDX-License-Identifier: Apache-2.0
//! The table of errors, as Markdown, for the documentation.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use crate::{lab::Wire, noise::Noise, shape::SHAPES, times::Measured};

/// Prints the table and writes it to the target directory.
pub fn publish(path: &str, measured: &[Measured], noise: Noise) {
    let table = render(path, measured, noise).expect("a string takes everything");
    println!("{table}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("a folder of the target directory");
    fs::write(target.join(format!("meter_accuracy-{path}.md")), table).expect("write the table");
}

fn render(path: &str, measured: &[Measured], noise: Noise) -> Result<String, std::fmt::Error> {
    let mut table = String::new();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    writeln!(
        table,
        "Byte events by {path}: p50 / p99 in ms, in brackets p99 of what no wait of an application for a processor explains. In the same \
         run, {:.2} / {:.2} from the write of one application to the read of the other.\n",
        ms(noise.p50),
        ms(noise.p99)
    )?;
    write!(table, "| shape |")?;
    for vantage in ["server", "client"] {
        for wire in Wire::ALL {
            write!(table, " {vantage}, {} |", wire.name())?;
        }
    }
    writeln!(table, "\n|---|{}", "---:|".repeat(2 * Wire::ALL.len()))?;
    for shape in &SHAPES {
        write!(table, "| {} |", shape.name)?;
        let over = |wire| {
            measured
                .iter()
                .find(|one| one.shape == shape.name && one.wire == wire)
        };
        let of_shape: Vec<&Measured> = Wire::ALL.into_iter().filter_map(over).collect();
        let errors = of_shape
            .iter()
            .map(|one| one.server)
            .chain(of_shape.iter().map(|one| one.client));
        for errors in errors {
            write!(table, " {errors} |")?;
        }
        writeln!(table)?;
    }
    Ok(table)
}
