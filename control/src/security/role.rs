// SPDX-License-Identifier: Apache-2.0
//! What the roles may do.

use std::fmt;

use serde::Deserialize;

/// What somebody is to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May do everything.
    Admin,
    /// Reads and writes resources.
    Editor,
    /// Reads, and registers servers.
    Registrar,
    /// Reads, takes xDS and reports.
    Agent,
    /// Reads.
    Viewer,
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To read.
    Read,
    /// To write resources.
    Write,
    /// To register servers.
    Register,
    /// To be a node.
    Node,
    /// To be allowed everything: of methods that nobody knows.
    Everything,
}

impl Role {
    /// Whether it is enough.
    pub fn meets(self, need: Need) -> bool {
        match (self, need) {
            (Self::Admin, _)
            | (_, Need::Read)
            | (Self::Editor, Need::Write)
            | (Self::Registrar, Need::Register)
            | (Self::Agent, Need::Node) => true,
            (_, Need::Write | Need::Register | Need::Node | Need::Everything) => false,
        }
    }

    /// As in the access file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Registrar => "registrar",
            Self::Agent => "agent",
            Self::Viewer => "viewer",
        }
    }
}

impl Need {
    /// The roles that meet it, for people.
    pub fn roles(self) -> &'static str {
        match self {
            Self::Read => "any role",
            Self::Write => "role editor or admin",
            Self::Register => "role registrar or admin",
            Self::Node => "role agent or admin",
            Self::Everything => "role admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
