//! Choosing the congestion control of a socket, where the kernel lets somebody choose.

use std::io;
use std::os::fd::AsFd;

use ginnel_core::congestion::CongestionControl;
use socket2::SockRef;

/// Why a congestion control cannot be had (configuration, environment).
#[derive(Debug, thiserror::Error)]
pub enum CongestionError {
    /// The kernel has it, but not for everybody.
    #[error(
        "this process may not choose the congestion control {0}: the machine's owner can allow it to everybody in \
         net.ipv4.tcp_allowed_congestion_control"
    )]
    NotAllowed(CongestionControl),
    /// The kernel does not have it.
    #[error(
        "the kernel has no congestion control {0}: net.ipv4.tcp_available_congestion_control names those that it has; \
         others may be modules that are not loaded"
    )]
    Unknown(CongestionControl),
    /// Something else.
    #[error("could not choose the congestion control {control}")]
    Socket {
        /// Which.
        control: CongestionControl,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Gives a socket this congestion control; what a listener has, the connections that it accepts have as well. A system on which nobody can
/// choose is warned of, and is no error.
///
/// # Errors
/// [`CongestionError`].
pub fn choose(socket: &impl AsFd, control: &CongestionControl) -> Result<(), CongestionError> {
    let Err(source) = set(&SockRef::from(socket), control) else { return Ok(()) };
    let is = |errno: rustix::io::Errno| source.raw_os_error() == Some(errno.raw_os_error());
    if source.kind() == io::ErrorKind::Unsupported || is(rustix::io::Errno::NOPROTOOPT) {
        tracing::warn!(%control, "this system lets nobody choose the congestion control; its own is used");
        return Ok(());
    }
    Err(if is(rustix::io::Errno::NOENT) {
        CongestionError::Unknown(control.clone())
    } else if is(rustix::io::Errno::PERM) {
        CongestionError::NotAllowed(control.clone())
    } else {
        CongestionError::Socket { control: control.clone(), source }
    })
}

/// Finds out, on a socket that is used for nothing else, whether connections can have this congestion control.
///
/// # Errors
/// [`CongestionError`].
pub fn try_out(control: &CongestionControl) -> Result<(), CongestionError> {
    let of_ours = |source| CongestionError::Socket { control: control.clone(), source };
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).map_err(of_ours)?;
    choose(&socket, control)
}

#[cfg(target_os = "linux")]
fn set(socket: &SockRef<'_>, control: &CongestionControl) -> io::Result<()> {
    socket.set_tcp_congestion(control.as_str().as_bytes())
}

#[cfg(not(target_os = "linux"))]
fn set(_: &SockRef<'_>, _: &CongestionControl) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn control(name: &str) -> CongestionControl {
        name.parse().unwrap()
    }

    #[test]
    fn a_listener_hands_its_choice_down_to_what_it_accepts() {
        // Linux has reno, whatever else it has; it is allowed to everybody.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        choose(&listener, &control("reno")).unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let name = SockRef::from(&accepted).tcp_congestion().unwrap();
        assert!(name.starts_with(b"reno"), "{name:?}");
    }

    #[test]
    fn a_name_that_the_kernel_does_not_know_is_an_error_that_says_so() {
        let error = try_out(&control("no-such-one")).unwrap_err();
        // Without privileges Linux does not even say whether it knows it.
        assert!(matches!(error, CongestionError::Unknown(_) | CongestionError::NotAllowed(_)), "{error}");
        assert!(error.to_string().contains("no-such-one"), "{error}");
    }
}
