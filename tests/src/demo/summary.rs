// SPDX-License-Identifier: Apache-2.0
//! The table at the end of the story: the times of each replica over the whole run, as measured at three places.

use comfy_table::{CellAlignment, Table, presets};

use super::{facts::Facts, latency::Figures, stage::Stage};

const HEADERS: [&str; 7] = [
    "REPLICA",
    "TTFT: KERNEL, SERVER",
    "KERNEL, CLIENT",
    "CLIENT ITSELF",
    "ITL: KERNEL, SERVER",
    "KERNEL, CLIENT",
    "CLIENT ITSELF",
];

/// The table, with a title.
pub(super) fn text(stage: &Stage, facts: &Facts) -> String {
    let (metered, bounds) = &facts.metered;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEADERS);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let shown =
        |figures: Option<Figures>| figures.map_or_else(|| "-".to_owned(), |figures| figures.to_string());
    for (replica, metered) in stage.replicas.iter().zip(metered) {
        let seen = facts.heard.seen(replica.cast.name);
        let times = [
            metered.server.first(bounds),
            metered.client.first(bounds),
            seen.first(),
            metered.server.gap(bounds),
            metered.client.gap(bounds),
            seen.gap(),
        ];
        let name = replica.cast.name.to_owned();
        table.add_row([vec![name], times.map(shown).to_vec()].concat());
    }
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| format!("  {}", line.trim_end()))
        .collect();
    format!(
        "\nThe whole run, mean, median and 99th percentile in ms: by the kernel of the replica's node, by those of the clients' nodes, \
         and by the clients\n{}",
        lines.join("\n")
    )
}
