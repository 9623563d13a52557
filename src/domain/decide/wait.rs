//! What is waited for: a sentence for people, and a kind that conditions follow from.

use jiff::Timestamp;

use crate::domain::conditions::Reason;

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The kind of wait.
    pub waiting: Waiting,
    /// What for, and what a person can do about it.
    pub text: String,
    /// When the wait is over by itself, if it is.
    pub until: Option<Timestamp>,
    /// The reason of the conditions, where the kind of wait does not say it all.
    pub reason: Option<Reason>,
}

/// Kinds of waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A person's answer.
    Person,
    /// A person asked to start nothing new.
    Suspended,
    /// An operation under way.
    Operation,
    /// Something outside that should come back by itself.
    Outside,
    /// A person must mend something.
    Mend,
}

impl Wait {
    /// For an answer.
    pub fn person(text: impl Into<String>) -> Self {
        Self {
            waiting: Waiting::Person,
            text: text.into(),
            until: None,
            reason: None,
        }
    }

    /// For `suspend` to be lifted.
    pub fn suspended(what: &str) -> Self {
        Self {
            waiting: Waiting::Suspended,
            text: format!("spec.suspend to be set to false: {what} then"),
            until: None,
            reason: None,
        }
    }

    /// For an operation to end.
    pub fn operation(text: impl Into<String>) -> Self {
        Self {
            waiting: Waiting::Operation,
            text: text.into(),
            until: None,
            reason: None,
        }
    }

    /// For something outside.
    pub fn outside(text: impl Into<String>) -> Self {
        Self {
            waiting: Waiting::Outside,
            text: text.into(),
            until: None,
            reason: None,
        }
    }

    /// For a person to mend something.
    pub fn mend(text: impl Into<String>) -> Self {
        Self {
            waiting: Waiting::Mend,
            text: text.into(),
            until: None,
            reason: None,
        }
    }

    /// As conditions and runbooks name it.
    #[must_use]
    pub const fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}
