// SPDX-License-Identifier: Apache-2.0
//! What a traffic policy says about limits, health and locality, as the kernel and the agent need it.
//!
//! Shared by all frontends of the services that the policy applies to. Invariant: a service without a policy has
//! [`ServiceRules::default`], which limits nothing and ejects by the defaults of `outlierDetection`.

use std::sync::{Arc, LazyLock};

use nodemesh_abi::Rules;

use super::{
    health_check::HealthCheck,
    limits::{self, Excess},
    outlier::{self, Silence},
    shortcut, slow_start, tiers,
};
use crate::{
    invalid::Findings,
    keyword::{self, Keyword},
    resource::locality::{Locality, LocalityLevel},
    wire,
};

/// The rules of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceRules {
    /// The row of `rules`.
    pub kernel: Rules,
    /// When silence ejects a backend; `None` for never.
    pub silence: Option<Silence>,
    /// How the agent asks the backends; `None` if it does not.
    pub health_check: Option<HealthCheck>,
    /// Whether a new backend gets one connection at a time until its first token was seen.
    pub until_first_token: bool,
    /// Levels of the tiers before the last one, nearest first; at most [`nodemesh_abi::service::TIERS`].
    pub tiers: Box<[LocalityLevel]>,
    /// Whether the last tier, which holds what is in none of `tiers`, is not asked.
    pub is_strict: bool,
    /// What becomes of the TCP connections to a backend that is removed.
    pub on_removal: OnRemoval,
}

/// What becomes of TCP connections to a backend that is removed outright.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoval {
    /// They go on for as long as the backend answers.
    #[default]
    Keep,
    /// They are ended.
    Close,
}

impl Keyword for OnRemoval {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Keep, "keep"), (Self::Close, "close")];
}

static DEFAULT: LazyLock<Arc<ServiceRules>> = LazyLock::new(|| {
    let mut kernel = without_limits();
    let silence = outlier::read(None, &mut kernel, &mut Findings::default());
    Arc::new(ServiceRules {
        kernel,
        silence,
        health_check: None,
        until_first_token: false,
        tiers: Box::default(),
        is_strict: false,
        on_removal: OnRemoval::default(),
    })
});

impl Default for ServiceRules {
    fn default() -> Self {
        ServiceRules::clone(&DEFAULT)
    }
}

fn without_limits() -> Rules {
    Rules {
        excess_errno: Excess::default().errno(),
        ..Rules::default()
    }
}

impl ServiceRules {
    /// The rules of every service without a policy, in one allocation.
    pub fn shared_default() -> Arc<Self> {
        Arc::clone(&DEFAULT)
    }

    /// The tier, from 0, of a backend at `place` for the clients of a node at `node`.
    pub fn tier(&self, node: &Locality, place: Option<&Locality>) -> u8 {
        let shared = |level: &LocalityLevel| place.is_some_and(|place| node.shares(*level, place));
        self.tiers.iter().position(shared).unwrap_or(self.tiers.len()) as u8
    }

    /// Whether backends of `tier` are asked at all.
    pub fn asks(&self, tier: u8) -> bool {
        !self.is_strict || usize::from(tier) < self.tiers.len()
    }

    /// Reads the parts of a spec.
    pub(super) fn read(spec: Parts, findings: &mut Findings) -> Self {
        let mut kernel = without_limits();
        if let Some(limits) = spec.limits {
            limits::read(limits, &mut kernel, findings);
        }
        let silence = outlier::read(spec.outlier_detection, &mut kernel, findings);
        let health_check = spec
            .health_checks
            .and_then(|wire| HealthCheck::read(wire, findings));
        let until_first_token = slow_start::read(spec.slow_start, &mut kernel, findings);
        let is_strict = spec
            .locality
            .as_ref()
            .and_then(|wire| wire.strict)
            .unwrap_or(false);
        let tiers = tiers::read(spec.locality, &mut kernel, findings);
        shortcut::read(spec.shortcut, &mut kernel, findings);
        let on_removal = spec
            .on_removal
            .as_deref()
            .map_or(Ok(OnRemoval::default()), keyword::parse);
        Self {
            kernel,
            silence,
            health_check,
            until_first_token,
            tiers,
            is_strict,
            on_removal: findings.check("spec.onRemoval", on_removal).unwrap_or_default(),
        }
    }
}

/// The parts of a spec that the rules are read from.
pub(super) struct Parts {
    pub(super) limits: Option<wire::Limits>,
    pub(super) outlier_detection: Option<wire::OutlierDetection>,
    pub(super) health_checks: Option<wire::HealthCheck>,
    pub(super) slow_start: Option<wire::SlowStart>,
    pub(super) locality: Option<wire::LocalityTiers>,
    pub(super) on_removal: Option<String>,
    pub(super) shortcut: Option<wire::Shortcut>,
}

#[cfg(test)]
mod tests;
