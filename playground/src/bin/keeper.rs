//! Clears up after a world that was killed. Started by worlds, not by people.

fn main() -> anyhow::Result<()> {
    homeward_playground::world::keep()
}
