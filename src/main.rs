//! The `homeward` program.

fn main() -> std::process::ExitCode {
    one_arena();
    homeward::cli::main()
}

/// glibc gives each thread an arena of its own and returns little of what was once used in them. Answers of whole fleets come and go on
/// every worker thread: with one arena the operator of 1,000 VMs stays at two thirds of the memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "std has no way to set up the allocator")]
fn one_arena() {
    // SAFETY: plain numbers, before any other thread exists. Should it fail, the default stays.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn one_arena() {}
