// SPDX-License-Identifier: Apache-2.0
//! What a document would come to, without writing it.
//!
//! Called by `north`. Invariant: the same plan that `writer` would write on the same state.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Applied, Registry, RegistryError,
    plan::{Plan, Request},
    state::{Entry, State},
};
use crate::store::Precondition;

impl Registry {
    /// What [`Registry::apply`] would answer now, and the resource that there would be; it has the version that it has now.
    pub fn check(
        &self,
        document: Value,
        expected: Precondition,
    ) -> Result<(Applied, Arc<Entry>), RegistryError> {
        let request = Request::Apply {
            value: document,
            expected,
            lease: None,
        };
        let now = self.state();
        let plan = Plan::of(&request, &self.writer.ranges, &mut State::clone(&now))?;
        let applied = Applied {
            key: plan.key,
            version: plan
                .former
                .as_ref()
                .map_or_else(Default::default, |former| former.version),
            is_new: plan.former.is_none(),
            is_changed: !plan.changes.is_empty(),
        };
        let entry = plan.entry.ok_or(RegistryError::Stopped)?;
        Ok((applied, entry))
    }
}
