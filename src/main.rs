//! The `homeward` program.

fn main() -> anyhow::Result<()> {
    for crd in homeward::api::definitions() {
        println!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}
