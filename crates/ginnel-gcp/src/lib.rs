//! Google, as far as the tunnel needs it: the only crate that names Google's clients.
//!
//! Each part is a feature, so that a program brings along no more of Google than its role asks for.

#[cfg(feature = "cas")]
pub mod cas;

/// Gives Google's clients the cryptography that everything else here uses; they take the process's default, which nothing else depends on.
#[cfg(feature = "cas")]
fn share_cryptography() {
    // An error says that somebody did this before, with the only provider that is in the program.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
