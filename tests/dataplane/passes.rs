//! Whole passes between real files.

use homeward::dataplane::*;

use crate::support::*;

fn sparse(seed: u64, blocks: usize) -> Vec<u8> {
    let mut content = noise(seed, blocks * KIB64);
    for hole in [1, 5, 6] {
        if hole < blocks {
            content[hole * KIB64..(hole + 1) * KIB64].fill(0);
        }
    }
    content
}

#[test]
fn a_compare_pass_sends_only_what_differs() {
    let old = sparse(1, 40);
    let mut new = old.clone();
    new[7 * KIB64] ^= 1;
    new[39 * KIB64..].copy_from_slice(&noise(2, KIB64));
    new[20 * KIB64..22 * KIB64].fill(0);
    new[KIB64..2 * KIB64].copy_from_slice(&noise(3, KIB64));
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    let (outcome, served) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    let outcome = outcome.unwrap();
    assert!(matches!(served, Served::Whole(roots) if roots == outcome.roots));
    assert_eq!(target.read("vda"), new);
    assert_eq!(
        (outcome.blocks_changed, outcome.bytes_changed),
        (5, 5 * KIB64 as u64)
    );
    assert!(
        outcome.bytes_sent < 3 * KIB64 as u64 + 2000,
        "{}",
        outcome.bytes_sent
    );
    assert!(matches!(
        target.set().content(),
        Content::Whole { exact: true, .. }
    ));
    assert!(!target.path("state/journal").exists());
    target.reopen().unwrap();
    assert!(matches!(
        target.set().content(),
        Content::Whole { exact: true, .. }
    ));
}
