//! Arbitrary sequences from a seed that is told, so that what was found can be repeated.

use std::fmt::Debug;

use proptest::prelude::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// What is played, and how often.
pub struct Sample {
    /// What happens, in a few words.
    pub what: String,
    /// How many sequences; 50 times as many with `HOMEWARD_FULL`, and any number with `HOMEWARD_CASES`.
    pub cases: u32,
    /// The seed where nobody asks for another and the whole is not wanted; none draws one each time.
    pub seed: Option<u64>,
    /// How many steps are taken to make a failing sequence smaller.
    pub shrink: u32,
}

/// Plays them.
pub fn play<S: Strategy>(
    sample: &Sample,
    sequences: &S,
    run: impl Fn(S::Value) -> Result<(), String>,
) where
    S::Value: Debug,
{
    let full = std::env::var_os("HOMEWARD_FULL").is_some();
    // Another one each time: what is not found today may be found tomorrow.
    let drawn = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000;
    let seed: u64 = match std::env::var("HOMEWARD_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => sample.seed.filter(|_| !full).unwrap_or_else(drawn),
    };
    // Past the capture of a test's output: a seed is wanted when all went well, too.
    let said = format!("{}: seed {seed}; SEED={seed} repeats it\n", sample.what);
    let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = match std::env::var("HOMEWARD_CASES") {
        Ok(cases) => cases.parse().unwrap(),
        Err(_) if full => sample.cases * 50,
        Err(_) => sample.cases,
    };
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: sample.shrink,
        max_shrink_time: 90_000,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(sequences, |sequence| {
        run(sequence).map_err(TestCaseError::fail)
    });
    if let Err(failure) = result {
        panic!("{failure}\n(HOMEWARD_SEED={seed})");
    }
}
