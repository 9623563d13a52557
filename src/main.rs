//! The `homeward` program.

fn main() -> std::process::ExitCode {
    homeward::cli::main()
}
