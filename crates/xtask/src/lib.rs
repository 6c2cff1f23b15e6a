//! The one way in which the checked-in wire types are made, shared by the program that writes them and the test that compares; and counts of
//! instructions.

pub mod callgrind;
pub mod limits;

use std::error::Error;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// Calls that carry a session's bytes. They speak the gRPC framing directly on the HTTP/2 body and get no generated stub.
const BYTE_CALLS: [&str; 2] = ["Carry", "Open"];

/// Where the checked-in types are.
pub fn generated_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ginnel-wire/src/gen")
}

/// Writes the types into a directory.
///
/// # Errors
/// Whatever the protobuf compiler or the file system says.
pub fn generate(out: &Path) -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut files: FileDescriptorSet = protox::compile(["ginnel/v1/ginnel.proto"], [proto])?;
    for service in files.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| !BYTE_CALLS.contains(&method.name()));
    }
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".ginnel.v1.Data.bytes")
        .bytes(".ginnel.v1.Dial.early")
        .out_dir(out)
        .compile_fds(files)?;
    Ok(())
}
