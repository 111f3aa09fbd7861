// SPDX-License-Identifier: Apache-2.0
//! Whether messages between sockets of one node may go past TCP: `shortcut` of a traffic policy.
//!
//! Invariant: nothing takes the shortcut without a policy that says so.

use nodemesh_abi::{Port, Rules, rules::SHORTCUT_EXCEPT};

use crate::{
    invalid::{AdmissionProblem, Findings},
    resource::address,
    wire,
};

/// Reads `spec.shortcut`.
pub(super) fn read(wire: Option<wire::Shortcut>, rules: &mut Rules, findings: &mut Findings) {
    let Some(wire) = wire else { return };
    rules.shortcut = wire.enabled.into();
    let except = wire.except_ports.unwrap_or_default();
    if except.len() > SHORTCUT_EXCEPT {
        let problem = AdmissionProblem::ShortcutPorts { found: except.len() };
        findings.add("spec.shortcut.exceptPorts", problem.into());
        return;
    }
    if !wire.enabled && !except.is_empty() {
        findings.add("spec.shortcut.exceptPorts", AdmissionProblem::ShortcutOff.into());
    }
    for (index, (place, port)) in rules.shortcut_except.iter_mut().zip(except).enumerate() {
        let field = format_args!("spec.shortcut.exceptPorts[{index}]");
        if let Some(port) = findings.check(field, address::port(port)) {
            *place = Port::new(port);
        }
    }
}
