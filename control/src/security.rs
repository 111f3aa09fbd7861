// SPDX-License-Identifier: Apache-2.0
//! Who may do what: roles, the access file, certificates, and their renewal while the server runs.
//!
//! ```text
//! certificate --identity--> Identity --+
//! Authorization: Bearer --------------+--> Access::caller --> Caller { role } --method::need--> allowed or not
//! ```
//!
//! Used by `server`, for every call. Invariant: what is not allowed by name is refused; a file that became bad changes nothing.

mod access;
mod credentials;
mod exposure;
mod identity;
mod method;
mod reload;
mod role;
mod tls;

#[cfg(test)]
mod tests;

pub use access::{Access, InvalidAccess, Refusal};
pub use credentials::{Caller, Credentials};
pub use exposure::{Exposed, check as check_exposure};
pub use identity::Identity;
pub use method::{METHODS, Method};
pub use reload::{Files, Reloaded, UnreadableFile, follow};
pub use role::{Need, Role};
pub use tls::{TlsError, TlsFiles, server_config};
