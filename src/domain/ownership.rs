//! A VM has one owner across namespaces and vaults of a cluster: the oldest resource that names it.

use jiff::Timestamp;

/// A resource that claims a VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// When it was made. First in the order: the oldest wins.
    pub created: Timestamp,
    /// Its namespace.
    pub namespace: String,
    /// Its name; namespace and name order those made in the same second.
    pub name: String,
}

/// The resource that came before `me` and claims the same VM, if there is one, as `namespace/name`.
pub fn earlier_owner<'a>(
    me: &Claimant,
    others: impl IntoIterator<Item = &'a Claimant>,
) -> Option<String> {
    others
        .into_iter()
        .filter(|other| *other < me)
        .min()
        .map(|first| format!("{}/{}", first.namespace, first.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(second: i64, namespace: &str, name: &str) -> Claimant {
        Claimant {
            created: Timestamp::from_second(second).unwrap(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn exactly_one_of_any_claimants_has_nobody_before_it() {
        let all = [
            claimant(5, "b", "x"),
            claimant(3, "z", "x"),
            claimant(3, "a", "y"),
            claimant(3, "a", "x"),
        ];
        let owners: Vec<_> = all
            .iter()
            .filter(|me| earlier_owner(me, &all).is_none())
            .collect();
        assert_eq!(owners, [&claimant(3, "a", "x")]);
        assert_eq!(earlier_owner(&all[0], &all).as_deref(), Some("a/x"));
    }
}
