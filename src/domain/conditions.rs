//! Conditions from closed enums, merged so that `lastTransitionTime` moves only with the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::Condition;

/// Type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the word is the type as it stands in status; the field that holds the conditions says what each means
pub enum ConditionType {
    Ready,
    Reconciling,
    Stalled,
    Placed,
    Protected,
    TargetConsistent,
    OnPremisesConnected,
    AzureConnected,
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Truth {
    True,
    False,
    Unknown,
}

macro_rules! words {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl $name {
            /// The word as it stands in status.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }
    };
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident),* $(,)?) => {
        /// Why a condition stands as it does; a closed list, so that people and alerts can rely on the words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant),* }
        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }
        words!(Reason { $($variant),* });
    };
}

words!(ConditionType {
    Ready,
    Reconciling,
    Stalled,
    Placed,
    Protected,
    TargetConsistent,
    OnPremisesConnected,
    AzureConnected
});
words!(Truth {
    True,
    False,
    Unknown
});

reasons! {
    /// Runs where it should and is protected.
    AsDeclared,
    /// A move is under way.
    FailingOver,
    /// A move waits for a person.
    AwaitingApproval,
    /// A person asked to start nothing new.
    Suspended,
    /// The first replica is being made.
    Seeding,
    /// Recovery points follow each other.
    Replicating,
    /// Replication does not get through.
    ReplicationFailing,
    /// Nothing protects the VM.
    NotProtected,
    /// The service protects nothing in this direction.
    ServiceDoesNotProtectFromAzure,
    /// The VM is being taken on.
    Adopting,
    /// The VM is not known to its vault.
    VirtualMachineNotFound,
    /// The vault resource does not exist.
    VaultNotFound,
    /// Nothing has been seen of the vault yet.
    VaultNotObserved,
    /// A site does not answer.
    SiteDisconnected,
    /// An operation that somebody else began is under way on the VM.
    OperationUnderWay,
    /// A job holds the VM at a service that does not know it any more.
    JobMissing,
    /// Another resource claims the same VM and came first.
    DuplicateClaim,
    /// The VM is claimed by another cluster.
    ClaimedElsewhere,
    /// The registers of the two sites contradict each other.
    RegistersContradict,
    /// A person must mend something with the VM.
    VirtualMachineNotReady,
    /// The guest should run and does not.
    GuestNotRunning,
    /// The last action failed in a way that a person must mend.
    ActionFailed,
    /// The resource cannot be understood.
    InvalidSpec,
    /// What is needed to decide is not known now.
    ObservationUnknown,
    /// The passive side holds a whole point in time.
    WholePointInTime,
    /// The passive side does not hold a whole point in time.
    NotWhole,
    /// Being let go of.
    Detaching,
    /// Ended well.
    Completed,
    /// Ended without moving the VM.
    NotMoved,
    /// Nobody made this Failover for a VM; it is ignored.
    NotMadeByController,
    /// All connected.
    Connected,
    /// Credentials cannot be read.
    CredentialsInvalid,
    /// The service does not let Homeward do all that it will have to do.
    PermissionsMissing,
}

/// A condition to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type.
    pub kind: ConditionType,
    /// Its status.
    pub truth: Truth,
    /// Why.
    pub reason: Reason,
    /// In words a person can act on.
    pub message: String,
}

impl Said {
    /// Says it.
    #[must_use]
    pub fn new(
        kind: ConditionType,
        truth: Truth,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            truth,
            reason,
            message: message.into(),
        }
    }
}

/// The conditions as said, in the order said; `lastTransitionTime` is kept where the status did not change.
#[must_use]
pub fn merge(
    before: &[Condition],
    said: Vec<Said>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    said.into_iter()
        .map(
            |Said {
                 kind,
                 truth,
                 reason,
                 message,
             }| {
                let kept = before
                    .iter()
                    .find(|old| old.type_ == kind.as_str() && old.status == truth.as_str())
                    .map(|old| old.last_transition_time.clone());
                Condition {
                    type_: kind.as_str().into(),
                    status: truth.as_str().into(),
                    reason: reason.as_str().into(),
                    message,
                    observed_generation: generation,
                    last_transition_time: kept.unwrap_or(Time(now)),
                }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_and_with_nothing_else() {
        let said = |truth, message: &str| {
            vec![Said::new(
                ConditionType::Ready,
                truth,
                Reason::AsDeclared,
                message,
            )]
        };
        let first = merge(&[], said(Truth::True, "one"), Some(1), at(10));
        assert_eq!(first[0].last_transition_time, Time(at(10)));
        let second = merge(&first, said(Truth::True, "two"), Some(2), at(20));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (second[0].message.as_str(), second[0].observed_generation),
            ("two", Some(2))
        );
        let third = merge(&second, said(Truth::False, "two"), Some(2), at(30));
        assert_eq!(third[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn what_is_not_said_again_is_gone() {
        let before = merge(
            &[],
            vec![Said::new(
                ConditionType::Reconciling,
                Truth::True,
                Reason::FailingOver,
                "moves",
            )],
            None,
            at(10),
        );
        assert!(merge(&before, Vec::new(), None, at(20)).is_empty());
    }

    #[test]
    fn reasons_are_words_that_kubernetes_accepts() {
        for reason in Reason::ALL {
            assert!(
                reason.as_str().chars().all(|c| c.is_ascii_alphanumeric()),
                "{}",
                reason.as_str()
            );
        }
    }
}
