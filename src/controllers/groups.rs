//! Which resources belong together: an index beside a store, so that no pass has to go through all resources.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

use super::key::Key;

/// Resources by what they have in common.
#[derive(Debug)]
pub struct Groups<G> {
    inner: RwLock<Inner<G>>,
}

#[derive(Debug)]
struct Inner<G> {
    members: HashMap<G, BTreeSet<Key>>,
    groups_of: HashMap<Key, Vec<G>>,
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self {
            inner: RwLock::new(Inner {
                members: HashMap::new(),
                groups_of: HashMap::new(),
            }),
        }
    }
}

impl<G: Clone + Eq + Hash> Groups<G> {
    /// The resource belongs to these groups and to no others. Returns whether that is new.
    pub fn set(&self, key: &Key, groups: Vec<G>) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.groups_of.get(key) == Some(&groups) {
            return false;
        }
        inner.leave(key);
        for group in &groups {
            inner
                .members
                .entry(group.clone())
                .or_default()
                .insert(key.clone());
        }
        if !groups.is_empty() {
            inner.groups_of.insert(key.clone(), groups);
        }
        true
    }

    /// The resource is gone. Returns those that had something in common with it.
    pub fn remove(&self, key: &Key) -> Vec<Key> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let groups = inner.leave(key);
        let left: BTreeSet<Key> = groups
            .iter()
            .filter_map(|group| inner.members.get(group))
            .flatten()
            .cloned()
            .collect();
        left.into_iter().collect()
    }

    /// The members of a group, in order.
    pub fn members(&self, group: &G) -> Vec<Key> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner
            .members
            .get(group)
            .map(|members| members.iter().cloned().collect())
            .unwrap_or_default()
    }
}

impl<G: Clone + Eq + Hash> Inner<G> {
    fn leave(&mut self, key: &Key) -> Vec<G> {
        let groups = self.groups_of.remove(key).unwrap_or_default();
        for group in &groups {
            if let Some(members) = self.members.get_mut(group) {
                members.remove(key);
                if members.is_empty() {
                    self.members.remove(group);
                }
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_moves_between_groups_and_leaves_nothing_behind() {
        let groups = Groups::default();
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        groups.set(&a, vec![1, 2]);
        groups.set(&b, vec![2]);
        assert_eq!(groups.members(&2), [a.clone(), b.clone()]);
        groups.set(&a, vec![3]);
        assert_eq!(groups.members(&1), []);
        assert_eq!(groups.members(&2), std::slice::from_ref(&b));
        assert_eq!(groups.remove(&a), []);
        groups.set(&a, vec![2]);
        assert_eq!(groups.remove(&b), std::slice::from_ref(&a));
        groups.remove(&a);
        assert_eq!(groups.members(&3), []);
        assert!(groups.inner.read().unwrap().members.is_empty());
    }
}
