//! Writes `crates/ginnel-wire/src/gen` from `proto/`. No protoc: the compiler is a library. It is a crate of its own so that it builds
//! whatever state the generated types are in.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    xtask::generate(&xtask::generated_dir())
}
