fn main() {
    for crd in homeward::api::definitions() {
        println!("---\n{}", serde_yaml::to_string(&crd).unwrap());
    }
}
