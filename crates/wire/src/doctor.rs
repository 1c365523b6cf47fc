//! What a look at an installation and its host found: `bangerd --doctor` prints it as JSON, `banger doctor` shows it.

use serde::{Deserialize, Serialize};

/// How good one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// banger works, with less than it could have.
    Warn,
    /// Something does not work until this is mended.
    Fail,
}

impl Verdict {
    /// Its stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What was looked at, a stable word.
    pub name: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found, and why that is so.
    pub found: String,
    /// What to type or do, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Row {
    /// A thing that is as it should be.
    pub fn pass(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Pass, found: found.into(), hint: None }
    }

    /// A thing that could be better, and how.
    pub fn warn(name: &str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, hint: Some(hint.into()), ..Self::pass(name, found) }
    }

    /// A thing that is to be mended, and how.
    pub fn fail(name: &str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, hint: Some(hint.into()), ..Self::pass(name, found) }
    }
}
