//! The line as programs see it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

const SHAPE: Shape = Shape {
    round_trip: Duration::from_millis(60),
    bytes_per_second: Shape::GIGABIT,
    loss_ppm: 0,
    seed: 1,
    congestion: "reno",
};

/// Connects through the link, and returns both ends and how long it took.
fn connected(link: &Link) -> Result<(TcpStream, TcpStream, Duration)> {
    let listener = link.far().run(|| TcpListener::bind((FAR, 0)))??;
    let address = listener.local_addr()?;
    let started = Instant::now();
    let near = link.near().run(|| TcpStream::connect(address))??;
    let elapsed = started.elapsed();
    Ok((near, listener.accept()?.0, elapsed))
}

fn carries(link: &Link, length: usize) -> Result<()> {
    let (mut near, mut far, elapsed) = connected(link)?;
    assert!(elapsed >= SHAPE.round_trip, "{elapsed:?}");
    let sent = crate::stream::bytes(1, length);
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            near.write_all(&sent).unwrap();
            drop(near);
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} of {length} bytes, or other ones", received.len());
    Ok(())
}

#[test]
fn bytes_arrive_after_the_delay_whole_and_in_order() -> Result<()> {
    if skip_without_root("bytes_arrive_after_the_delay_whole_and_in_order") {
        return Ok(());
    }
    let link = Link::start(SHAPE)?;
    carries(&link, 4 << 20)?;
    assert_eq!(link.passed().lost, 0);
    Ok(())
}

#[test]
fn losses_happen_and_tcp_mends_them() -> Result<()> {
    if skip_without_root("losses_happen_and_tcp_mends_them") {
        return Ok(());
    }
    let link = Link::start(Shape { loss_ppm: 5_000, ..SHAPE })?;
    carries(&link, 2 << 20)?;
    let passed = link.passed();
    assert!(passed.lost > 0 && passed.arrived > 1000, "{passed:?}");
    Ok(())
}
