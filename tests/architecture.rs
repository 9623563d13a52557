//! Who may know whom: every path that a source file names is checked against the import table of `docs/architecture.md`.
//!
//! Files are parsed, not searched, so that a word in a comment does not count and `use super::super::x` does. Code under
//! `#[cfg(test)]` is left out: a test may look over the fence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// A row of the import table.
struct Rule {
    /// Modules that the row speaks of, as path prefixes; the first matching prefix of `except` frees a module again.
    modules: &'static [&'static str],
    except: &'static [&'static str],
    /// Paths that must not be named there.
    never: &'static [&'static str],
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        modules: &["crate::api"],
        except: &[],
        never: &[
            "crate::domain",
            "crate::driver",
            "crate::controllers",
            "crate::agent",
            "crate::dataplane",
            "crate::cli",
            "crate::telemetry",
            "crate::pki",
        ],
        because: "the schema stands alone",
    },
    Rule {
        modules: &["crate::domain"],
        except: &[],
        never: &[
            "tokio",
            "futures",
            "reqwest",
            "rustix",
            "rand",
            "kube::Client",
            "kube::Api",
            "kube::client",
            "kube::api",
            "kube::runtime",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::thread",
            "std::time::SystemTime",
            "std::time::Instant",
            "jiff::Timestamp::now",
            "Timestamp::now",
            "Zoned::now",
            "SystemTime::now",
            "Instant::now",
            "Uuid::new_v4",
            "uuid::Uuid::new_v4",
            "crate::driver",
            "crate::controllers",
            "crate::agent",
            "crate::dataplane",
            "crate::cli",
            "crate::telemetry",
            "crate::pki",
        ],
        because: "decisions can be tested, replayed and model-checked",
    },
    Rule {
        modules: &["crate::driver"],
        except: &[],
        never: &["kube", "k8s_openapi", "crate::controllers", "crate::cli"],
        because: "drivers run from the command line and from tests too",
    },
    Rule {
        modules: &["crate::driver::agents"],
        except: &[],
        never: &[
            "crate::driver::simulated",
            "crate::driver::azure_site_recovery",
            "crate::dataplane",
        ],
        because: "adding a driver touches no other",
    },
    Rule {
        modules: &["crate::driver::simulated"],
        except: &[],
        never: &[
            "crate::driver::agents",
            "crate::driver::azure_site_recovery",
            "crate::dataplane",
            "crate::agent",
        ],
        because: "adding a driver touches no other",
    },
    Rule {
        modules: &["crate::controllers"],
        except: &[],
        never: &[
            "crate::driver::agents",
            "crate::driver::simulated",
            "crate::driver::azure_site_recovery",
            "crate::dataplane",
            "crate::agent",
            "crate::cli",
        ],
        because: "controllers see the trait alone",
    },
    Rule {
        modules: &["crate::agent", "crate::dataplane"],
        except: &[],
        never: &[
            "kube",
            "k8s_openapi",
            "azure_core",
            "azure_identity",
            "crate::controllers",
            "crate::driver",
            "crate::domain",
            "crate::cli",
        ],
        because: "the privileged process stays small",
    },
    Rule {
        modules: &["crate::dataplane"],
        except: &["crate::dataplane::io", "crate::dataplane::net"],
        never: &[
            "tokio",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::thread",
            "std::time::SystemTime",
            "std::time::Instant",
            "rustix",
            "rustls",
            "SystemTime::now",
            "Instant::now",
            "Uuid::new_v4",
            "uuid::Uuid::new_v4",
            "crate::dataplane::io",
            "crate::dataplane::net",
            "crate::agent",
        ],
        because: "the protocol is sans-IO and can be fuzzed",
    },
];

fn starts_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path named in a file, as written but with `self` and `super` resolved.
struct Named {
    module: Vec<String>,
    paths: BTreeSet<String>,
}

impl Named {
    fn resolve(&self, segments: &[String]) -> String {
        let mut base: Vec<String> = Vec::new();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("super") => {
                base.clone_from(&self.module);
                while rest.first().map(String::as_str) == Some("super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            Some("self") => {
                base.clone_from(&self.module);
                rest = &rest[1..];
            }
            _ => {}
        }
        base.extend(rest.iter().cloned());
        base.join("::")
    }

    fn note(&mut self, segments: &[String]) {
        let path = self.resolve(segments);
        self.paths.insert(path);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                let mut before = before.to_vec();
                before.push(path.ident.to_string());
                self.tree(&before, &path.tree);
            }
            syn::UseTree::Name(name) => {
                let mut path = before.to_vec();
                if name.ident != "self" {
                    path.push(name.ident.to_string());
                }
                self.note(&path);
            }
            syn::UseTree::Rename(rename) => {
                let mut path = before.to_vec();
                path.push(rename.ident.to_string());
                self.note(&path);
            }
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(before, tree);
                }
            }
        }
    }
}

fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if only_for_tests(&module.attrs) {
            return;
        }
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !only_for_tests(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.note(&segments);
        visit::visit_path(self, path);
    }
}

fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let relative = file
        .strip_prefix(root)
        .expect("files lie below the root")
        .with_extension("");
    let mut parts = vec!["crate".to_owned()];
    parts.extend(
        relative
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned()),
    );
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source tree can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn violations(module: &[String], text: &str) -> Vec<String> {
    let file = syn::parse_file(text).expect("a source file parses");
    let mut named = Named {
        module: module.to_vec(),
        paths: BTreeSet::new(),
    };
    named.visit_file(&file);
    let here = module.join("::");
    let mut wrong = Vec::new();
    for rule in RULES {
        let applies = rule.modules.iter().any(|prefix| starts_with(&here, prefix))
            && !rule.except.iter().any(|prefix| starts_with(&here, prefix));
        if !applies {
            continue;
        }
        for path in &named.paths {
            if let Some(never) = rule.never.iter().find(|never| starts_with(path, never)) {
                wrong.push(format!(
                    "{here} names {path}, but never {never}: {}",
                    rule.because
                ));
            }
        }
    }
    wrong
}

#[test]
fn every_module_keeps_to_the_import_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the source tree was not found");
    let wrong: Vec<String> = files
        .iter()
        // A test module in a file of its own is declared under cfg(test) by its parent.
        .filter(|file| {
            !file
                .file_stem()
                .is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
        })
        .flat_map(|file| {
            violations(
                &module_of(&root, file),
                &std::fs::read_to_string(file).expect("a source file can be read"),
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_is_enforced_however_a_path_is_written() {
    let domain = ["crate".to_owned(), "domain".to_owned(), "decide".to_owned()];
    for text in [
        "use tokio::time;",
        "use {std::fs, std::fmt};",
        "use super::super::driver::agents;",
        "fn f() { let _ = std::time::Instant::now(); }",
        "fn f() { let _ = jiff::Timestamp::now(); }",
        "use crate::{api::Site, controllers as c};",
    ] {
        assert!(!violations(&domain, text).is_empty(), "not caught: {text}");
    }
    for text in [
        "use crate::api::Site;",
        "// use tokio::time;",
        "#[cfg(test)] mod tests { use std::fs; }",
        "use jiff::Timestamp;",
    ] {
        assert!(
            violations(&domain, text).is_empty(),
            "wrongly caught: {text}"
        );
    }
}
