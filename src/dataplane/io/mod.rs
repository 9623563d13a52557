//! The effects of the data plane on files: disks, digest tables, the undo journal, the state of a volume set, the gate.

pub(crate) mod apply;
mod as_source;
mod cover;
mod finish;
pub mod fs;
pub mod gate;
mod journal_file;
pub(crate) mod new_files;
mod record;
pub mod room;
mod seal;
pub mod source;
pub(crate) mod table;
pub(crate) mod target;
mod undo;
pub mod volume_set;

pub use undo::UndoReport;
