//! Which cryptography Google's clients use.
//!
//! They are built without any and take what the process has by default, so that this must be installed before the first of them is made.
//! They offer TLS 1.3 and, because their HTTP library brings it along and leaves no choice, TLS 1.2 as well: Google's servers speak 1.3, and nothing
//! of the tunnel's own goes that way. The connections that this crate makes itself are TLS 1.3 only, like all others of the tunnel.

/// Makes aws-lc-rs the default of the process, with the cipher suites of TLS 1.3 and hybrid key exchange first. What is installed already stays.
pub fn install() {
    // The error is that there is one already: this one, from an earlier call, because the workspace has no other.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
