//! Writes `src/gen/ginnel.v1.rs` from `proto/`. No protoc: the compiler is a library.

#[path = "../tests/support/generator.rs"]
mod generator;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    generator::generate(&generator::generated_dir())
}
