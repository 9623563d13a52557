//! Chooses which cases of a matrix run.

use std::{collections::BTreeSet, env, fmt::Debug, time::Duration};

/// A seeded choice: the same seed chooses the same cases.
pub struct Sampler {
    state: u64,
    full: bool,
}

impl Sampler {
    /// Prints its seed: `HOMEWARD_SEED`, or one of the moment.
    pub fn new(test: &str) -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let seed = set("HOMEWARD_SEED").map_or_else(
            || uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000,
            |seed| seed.parse().expect("HOMEWARD_SEED is a number"),
        );
        say(&format!(
            "{test}: seed {seed}; SEED={seed} repeats this sample"
        ));
        let name = test
            .bytes()
            .fold(seed, |hash, byte| mix(hash ^ u64::from(byte)));
        Self {
            state: name,
            full: set("HOMEWARD_FULL").is_some(),
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state) % limit.max(1)
    }

    /// A time below `limit`.
    pub fn time(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap();
        Duration::from_micros(self.below(micros))
    }

    /// One of them.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()].clone()
    }

    /// How often something is repeated: with `FULL=1`, and else.
    pub fn how_many(&self, sample: u64, full: u64) -> u64 {
        if self.full { full } else { sample }
    }

    /// The cases to run, shuffled: with `FULL=1` all; else so many that each `key` occurs, and at least `least`.
    pub fn choose<T, K: Ord>(
        &mut self,
        mut cases: Vec<T>,
        least: usize,
        key: impl Fn(&T) -> K,
    ) -> Vec<T>
    where
        T: Debug,
    {
        for at in (1..cases.len()).rev() {
            let other = usize::try_from(self.below(at as u64 + 1)).unwrap();
            cases.swap(at, other);
        }
        if self.full {
            return cases;
        }
        let mut seen = BTreeSet::new();
        let (mut chosen, rest): (Vec<T>, Vec<T>) =
            cases.into_iter().partition(|case| seen.insert(key(case)));
        let missing = least.saturating_sub(chosen.len());
        chosen.extend(rest.into_iter().take(missing));
        chosen
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[test]
fn every_key_occurs_and_a_seed_repeats_itself() {
    let cases: Vec<(u64, u64)> = (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).collect();
    let choose = |state| Sampler { state, full: false }.choose(cases.clone(), 7, |case| case.0);
    let chosen = choose(1);
    assert_eq!(chosen.len(), 7);
    assert_eq!(
        chosen
            .iter()
            .map(|case| case.0)
            .collect::<BTreeSet<_>>()
            .len(),
        5
    );
    assert_eq!(chosen, choose(1));
    assert_ne!(chosen, choose(2));
}

/// Past the capture of a test's output: a seed is wanted when all went well, too.
fn say(words: &str) {
    let mut out = std::io::stderr().lock();
    let _ = std::io::Write::write_all(&mut out, format!("{words}\n").as_bytes());
}
