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
