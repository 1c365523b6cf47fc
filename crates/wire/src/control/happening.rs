//! What happens, as it happens.

use serde::{Deserialize, Serialize};

use super::{OperationState, State};

/// One line of `GET /v1/events`: what happened, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Happening {
    /// When: milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happened {
    /// A VM was made or changed, and is in this state now.
    Vm {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// Its state.
        state: State,
        /// Why it is so.
        #[serde(default)]
        reason: Option<String>,
    },
    /// A VM is gone.
    VmRemoved {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// An operation began.
    Begun {
        /// Its id.
        op_id: String,
        /// What it does, like `vm.start dev`.
        operation: String,
    },
    /// An operation ended.
    Ended {
        /// Its id.
        op_id: String,
        /// What it did.
        operation: String,
        /// How.
        state: OperationState,
        /// Why it failed.
        #[serde(default)]
        error: Option<String>,
    },
    /// The listener was too slow.
    Missed {
        /// For so many events.
        count: u64,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}
