//! Moves from end to end, on a real API server, with the real operator and real agents as processes of their own: whoever is
//! killed, wherever, nothing is lost and nothing runs twice.
//!
//! Guests are plain processes, so that many moves fit into minutes; what concerns bitmaps, power and boot runs on QEMU (`qemu`).
//! Each matrix runs a seeded sample in which every step occurs, and with `FULL=1` as a whole. The seed is printed; `SEED=n`
//! repeats it.

mod api_server;
mod back;
mod cancel;
mod clusters;
mod disks;
mod disorder;
mod ending;
mod flip;
mod full;
mod kill;
mod lane;
mod late;
mod mended;
mod operators;
mod qemu;
mod reboot;
mod registers;
mod sampler;
mod vault;
