//! When sets are fetched: on paused time, from a source that counts.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{advance, sleep};

use super::*;
use crate::fetch::Fetched;

const ACCOUNT: &str = "agent@acme.iam.gserviceaccount.com";
const MODULUS: &str = "xcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXF\
     xcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXF\
     xcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxQ";

/// What a source answers.
#[derive(Clone, Debug)]
enum Says {
    Keys(Vec<&'static str>),
    Absent,
    Down,
    Hangs,
}

struct Counted {
    says: Mutex<Says>,
    count: AtomicUsize,
}

impl Counted {
    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Fetch for Counted {
    fn fetch<'a>(&'a self, _url: &'a str) -> Fetched<'a> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let says = self.says.lock().unwrap().clone();
        Box::pin(async move {
            sleep(Duration::from_millis(10)).await;
            match says {
                Says::Keys(ids) => Ok(document(&ids)),
                Says::Absent => Err(FetchError::Absent),
                Says::Down => Err(FetchError::Status(500)),
                Says::Hangs => std::future::pending().await,
            }
        })
    }
}

fn document(ids: &[&str]) -> Vec<u8> {
    let jwk =
        |id: &&str| format!(r#"{{"kid":"{id}","kty":"RSA","alg":"RS256","use":"sig","n":"{MODULUS}","e":"AQAB"}}"#);
    let keys: Vec<_> = ids.iter().map(jwk).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(",")).into_bytes()
}

fn sets(says: Says) -> (Arc<KeySets>, Arc<Counted>) {
    sets_with(Timing::default(), says)
}

fn sets_with(timing: Timing, says: Says) -> (Arc<KeySets>, Arc<Counted>) {
    let source = Arc::new(Counted { says: Mutex::new(says), count: AtomicUsize::new(0) });
    let sets = KeySets {
        timing,
        accounts_url: "https://keys.example/".to_owned(),
        google: Arc::clone(&source) as Arc<dyn Fetch>,
        sets: Mutex::default(),
    };
    sets.set_accounts(&BTreeSet::from([ACCOUNT.to_owned()]));
    (Arc::new(sets), source)
}

async fn find(sets: &KeySets, key_id: &str) -> Result<(), NoKey> {
    sets.find(&KeySetId::Account(ACCOUNT.to_owned()), key_id).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn a_set_is_fetched_once_for_all_who_ask_at_the_same_time() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let sets = Arc::clone(&sets);
            tokio::spawn(async move { find(&sets, "a").await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn accounts_that_are_not_configured_are_not_asked_for() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    let other = KeySetId::Account("other@acme.iam.gserviceaccount.com".to_owned());
    assert_eq!(sets.find(&other, "a").await.map(|_| ()), Err(NoKey::Unavailable));
    sets.set_accounts(&BTreeSet::new());
    assert_eq!(find(&sets, "a").await, Err(NoKey::Unavailable));
    assert_eq!(source.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_unknown_key_ids_cause_one_fetch_in_thirty_seconds() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    assert_eq!(find(&sets, "a").await, Ok(()));
    for number in 0..1000 {
        assert_eq!(find(&sets, &format!("made-up-{number}")).await, Err(NoKey::Unknown));
    }
    assert_eq!(source.count(), 1, "within the rest");
    advance(Duration::from_secs(31)).await;
    for number in 0..1000 {
        assert_eq!(find(&sets, &format!("made-up-{number}")).await, Err(NoKey::Unknown));
    }
    assert_eq!(source.count(), 2);
    assert_eq!(find(&sets, "a").await, Ok(()));
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_after_the_rest_and_an_old_one_is_good_until_it_is_gone() {
    let (sets, source) = sets(Says::Keys(vec!["old"]));
    assert_eq!(find(&sets, "old").await, Ok(()));
    source.says(Says::Keys(vec!["old", "new"]));
    advance(Duration::from_secs(31)).await;
    assert_eq!((find(&sets, "new").await, find(&sets, "old").await), (Ok(()), Ok(())), "two keys live at once");
    source.says(Says::Keys(vec!["new"]));
    advance(Duration::from_secs(290)).await;
    assert_eq!(find(&sets, "old").await, Ok(()), "while cached");
    advance(Duration::from_secs(15)).await;
    assert_eq!(find(&sets, "old").await, Err(NoKey::Unknown), "after five minutes");
    assert_eq!(find(&sets, "new").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn keys_stay_good_for_a_day_while_they_cannot_be_fetched() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    assert_eq!(find(&sets, "a").await, Ok(()));
    for outage in [Says::Down, Says::Hangs] {
        source.says(outage.clone());
        advance(Duration::from_secs(11 * 3600)).await;
        let before = source.count();
        assert_eq!(find(&sets, "a").await, Ok(()), "{outage:?}");
        assert_eq!(find(&sets, "b").await, Err(NoKey::Unavailable), "{outage:?}: unknown");
        assert_eq!(source.count(), before + 1, "{outage:?}");
    }
    advance(Duration::from_secs(3 * 3600)).await;
    assert_eq!(find(&sets, "a").await, Err(NoKey::Unavailable), "after a day");
    source.says(Says::Keys(vec!["a"]));
    advance(Duration::from_secs(31)).await;
    assert_eq!(find(&sets, "a").await, Ok(()), "healed");
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_goes_away_takes_the_answer_from_nobody() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    {
        let mut asking = std::pin::pin!(find(&sets, "a"));
        tokio::select! {
            biased;
            _ = &mut asking => panic!("too fast"),
            () = sleep(Duration::from_millis(1)) => {}
        }
    }
    assert_eq!(find(&sets, "a").await, Ok(()));
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_current_keys_are_what_was_just_fetched_and_nothing_else() {
    let (sets, source) = sets(Says::Keys(vec!["a"]));
    let ids = |found: Option<(Arc<KeySet>, Instant)>| {
        found.map(|(keys, fetched)| {
            assert_eq!(fetched, Instant::now());
            keys.ids().map(str::to_owned).collect::<Vec<_>>()
        })
    };
    assert_eq!(ids(sets.current(ACCOUNT).await), Some(vec!["a".to_owned()]));
    source.says(Says::Down);
    advance(Duration::from_secs(240)).await;
    assert_eq!(ids(sets.current(ACCOUNT).await), None, "away");
    source.says(Says::Keys(vec!["b"]));
    advance(Duration::from_secs(240)).await;
    assert_eq!(ids(sets.current(ACCOUNT).await), Some(vec!["b".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_absent_or_empty_twice_in_a_row_has_no_keys() {
    for (once, again) in [
        (Says::Absent, Says::Absent),
        (Says::Keys(vec![]), Says::Keys(vec![])),
        (Says::Absent, Says::Keys(vec![])),
        (Says::Keys(vec![]), Says::Absent),
    ] {
        let (sets, source) = sets(Says::Keys(vec!["a"]));
        assert_eq!(find(&sets, "a").await, Ok(()));
        for says in [once.clone(), Says::Down, once.clone()] {
            source.says(says);
            advance(Duration::from_secs(301)).await;
            assert_eq!(find(&sets, "a").await, Ok(()), "{once:?} once");
            assert!(sets.current(ACCOUNT).await.is_none());
        }
        source.says(again.clone());
        advance(Duration::from_secs(31)).await;
        let (keys, _) = sets.current(ACCOUNT).await.expect("twice");
        assert_eq!(keys.ids().count(), 0, "{once:?}, {again:?}");
        assert_eq!(find(&sets, "a").await, Err(NoKey::Unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_slow_answer_takes_it_although_it_took_longer_than_the_rest() {
    let (sets, source) = sets_with(Timing { fresh_for: Duration::from_secs(1) }, Says::Hangs);
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let sets = Arc::clone(&sets);
            tokio::spawn(async move { find(&sets, "a").await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Err(NoKey::Unavailable));
    }
    assert_eq!(source.count(), 1);
}

#[test]
fn safe_places_are_https_and_loopback() {
    let cases = [
        ("https://www.googleapis.com/x", true),
        ("http://127.0.0.1:8000/keys", true),
        ("http://[::1]:8000/keys", true),
        ("http://www.googleapis.com/x", false),
        ("http://169.254.169.254/", false),
        ("http://localhost/", false),
        ("file:///etc/passwd", false),
        ("nonsense", false),
    ];
    for (url, safe) in cases {
        assert_eq!(is_safe(url), safe, "{url}");
    }
}

#[test]
fn an_e_mail_is_one_part_of_a_path() {
    assert_eq!(escaped("a-b_c.d@p.example"), "a-b_c.d@p.example");
    assert_eq!(escaped("a?b#c%d/..@x"), "a%3Fb%23c%25d%2F..@x");
}
