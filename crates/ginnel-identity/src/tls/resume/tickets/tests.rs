use std::time::Duration;

use super::super::LIFE_MAX;
use super::*;

fn client(number: usize) -> Principal {
    format!("spiffe://acme.example/client/c{number}").parse().expect("a principal")
}

fn made(number: usize) -> Vec<(Id, Secret)> {
    vec![(number.to_be_bytes().to_vec(), Zeroizing::new(b"secret".to_vec()))]
}

fn life(now: Instant) -> Life {
    Life::new(now, now, LIFE_MAX)
}

#[test]
fn whoever_has_most_makes_room_when_all_is_full() {
    let (tickets, now) = (Tickets::default(), Instant::now());
    for number in 0..TICKETS_MAX {
        // One client has twice as many as any other.
        let who = if number < TICKETS_PER_CLIENT_MAX { 0 } else { 1 + number / (TICKETS_PER_CLIENT_MAX / 2) };
        tickets.put(&client(who), made(number), life(now), 0, now);
    }
    assert_eq!(tickets.count(), TICKETS_MAX);
    for number in 0..10 {
        tickets.put(&client(999), made(TICKETS_MAX + number), life(now), 0, now);
    }
    assert_eq!(tickets.count(), TICKETS_MAX);
    let is_there = |who: usize, number: usize| tickets.take(&client(who), &number.to_be_bytes(), now).is_some();
    assert!((0..10).all(|number| !is_there(0, number)) && is_there(0, 10));
    assert!((0..10).all(|number| is_there(999, TICKETS_MAX + number)));
}

#[test]
fn expired_tickets_go_even_if_their_client_does_not_come_back() {
    let (tickets, now) = (Tickets::default(), Instant::now());
    tickets.put(&client(1), made(1), life(now), 0, now);
    let later = now + LIFE_MAX;
    tickets.put(&client(2), made(2), life(later), 0, later);
    assert_eq!(tickets.count(), 1);
}

#[test]
fn a_ticket_is_not_good_from_the_second_of_its_end_on() {
    let now = Instant::now();
    for (remaining, ends) in [(Duration::from_secs(4), Duration::from_secs(4)), (2 * LIFE_MAX, LIFE_MAX)] {
        let life = Life::new(now, now, remaining);
        assert!(!life.is_over(now + ends - Duration::from_nanos(1)) && life.is_over(now + ends));
    }
    let tickets = Tickets::default();
    tickets.put(&client(1), made(1), Life::new(now, now, Duration::ZERO), 0, now);
    assert_eq!(tickets.count(), 0);
    tickets.put(&client(1), made(1), life(now), 0, now);
    assert!(tickets.take(&client(1), &1_usize.to_be_bytes(), now + LIFE_MAX).is_none());
}
