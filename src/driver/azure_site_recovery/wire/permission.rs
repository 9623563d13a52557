//! What the identity is let do at the vault.

use serde_json::Value;

use super::page::Element;
use super::value::Object;

/// Version of the authorization API that tells of it.
pub const API_VERSION: &str = "2022-04-01";

/// All that a driver asks for, by the names of the service's operations.
pub const NEEDED: [&str; 9] = [
    "Microsoft.RecoveryServices/vaults/replicationProtectedItems/read",
    "Microsoft.RecoveryServices/vaults/replicationRecoveryServicesProviders/read",
    "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers/replicationProtectedItems/read",
    "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers/replicationProtectedItems/plannedFailover/action",
    "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers/replicationProtectedItems/failoverCommit/action",
    "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers/replicationProtectedItems/reProtect/action",
    "Microsoft.RecoveryServices/vaults/replicationJobs/read",
    "Microsoft.RecoveryServices/vaults/replicationJobs/cancel/action",
    "Microsoft.RecoveryServices/vaults/replicationJobs/resume/action",
];

/// One set of what is granted and what of it is taken away again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    /// Granted; `*` stands for anything.
    pub actions: Vec<String>,
    /// Taken away again.
    pub not_actions: Vec<String>,
}

impl Element for Permission {
    fn read(value: &Value) -> Option<Self> {
        let permission = Object::of(value);
        permission.is_there().then(|| Self {
            actions: permission.texts("actions"),
            not_actions: permission.texts("notActions"),
        })
    }
}

/// What is needed and not granted. Sets are not subtracted from each other: each role grants by itself.
#[must_use]
pub fn missing(granted: &[Permission]) -> Vec<String> {
    let covers =
        |patterns: &[String], action: &str| patterns.iter().any(|pattern| matches(pattern, action));
    NEEDED
        .into_iter()
        .filter(|action| {
            !granted
                .iter()
                .any(|set| covers(&set.actions, action) && !covers(&set.not_actions, action))
        })
        .map(str::to_owned)
        .collect()
}

/// Whether a pattern with stars covers an action, without regard to case.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = action.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    // Without a star nothing may be left; after the last star anything may, if what follows the star ends the action.
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || action.ends_with(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_they_say() {
        for (pattern, action, covers) in [
            ("*", "A/b/read", true),
            ("*/read", "A/b/read", true),
            ("*/read", "A/b/write", false),
            ("a/B/read", "A/b/READ", true),
            ("a/b", "a/b/read", false),
            ("a/*/action", "a/b/c/action", true),
            ("a/*/action", "a/b/action/x", false),
            ("a/*", "b/a/c", false),
        ] {
            assert_eq!(matches(pattern, action), covers, "{pattern} {action}");
        }
    }

    #[test]
    fn what_one_role_takes_away_another_may_grant() {
        let set = |actions: &[&str], not: &[&str]| Permission {
            actions: actions.iter().map(ToString::to_string).collect(),
            not_actions: not.iter().map(ToString::to_string).collect(),
        };
        let vault = "Microsoft.RecoveryServices/*";
        assert!(missing(&[set(&[vault], &[])]).is_empty());
        let resume = "Microsoft.RecoveryServices/vaults/replicationJobs/resume/action";
        assert_eq!(missing(&[set(&[vault], &[resume])]), [resume]);
        assert!(missing(&[set(&[vault], &[resume]), set(&["*"], &[])]).is_empty());
        assert_eq!(missing(&[set(&["*/read"], &[])]).len(), 5);
        assert_eq!(missing(&[]).len(), NEEDED.len());
    }
}
