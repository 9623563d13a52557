//! Sequences that once failed, made as small as they get.
