use super::*;

fn list(patterns: &[&str]) -> AllowList {
    AllowList::new(patterns.iter().map(|text| text.parse::<TargetPattern>().unwrap()))
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn permits_only_what_is_listed() {
    let cases: &[(&[&str], &str, Result<(), Cause>)] = &[
        (&[], "gitlab.acme.internal:443", Err(Cause::NotOnAllowList)),
        (&["gitlab.acme.internal:443"], "GitLab.acme.internal.:443", Ok(())),
        (&["gitlab.acme.internal:443"], "gitlab.acme.internal:22", Err(Cause::NotOnAllowList)),
        (&["*.acme.internal:443"], "metadata.google.internal:443", Err(Cause::NotOnAllowList)),
        (&["10.20.0.0/16:443"], "10.20.1.2:443", Ok(())),
        (&["10.20.0.0/16:443"], "gitlab.acme.internal:443", Err(Cause::NotOnAllowList)),
        (&["gitlab.acme.internal:443"], "10.20.1.2:443", Err(Cause::NotOnAllowList)),
        (&["localhost:443"], "localhost:443", Ok(())),
    ];
    for (patterns, asked, verdict) in cases {
        assert_eq!(list(patterns).permits_target(None, &target(asked)), *verdict, "{patterns:?} {asked}");
    }
}

#[test]
fn leaves_out_forbidden_addresses_and_keeps_the_order_of_the_others() {
    let list = list(&["git.acme.internal:443"]);
    let resolved = addresses(&[
        "[::1]:443",
        "10.0.0.8:443",
        "127.0.0.1:443",
        "10.0.0.7:443",
        "[::ffff:10.0.0.8]:443",
        "169.254.169.254:443",
        "[fd00::1]:443",
    ]);
    let dialable = list.dialable(None, &target("git.acme.internal:443"), &resolved, &[]);
    assert_eq!(dialable, Ok(addresses(&["10.0.0.8:443", "10.0.0.7:443", "[fd00::1]:443"])));
}

#[test]
fn no_name_reaches_a_forbidden_kind() {
    let list = list(&["git.acme.internal:443", "10.0.0.0/8:443", "0.0.0.0/0:1-65535", "[::/0]:1-65535"]);
    let forbidden = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "169.254.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "168.63.129.16",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2001::1",
    ];
    for text in forbidden {
        let resolved = [SocketAddr::new(text.parse().unwrap(), 443)];
        let verdict = list.dialable(None, &target("git.acme.internal:443"), &resolved, &[]);
        assert_eq!(verdict, Err(Cause::AddressForbidden), "{text}");
    }
}

#[test]
fn a_forbidden_kind_is_dialled_where_it_is_listed_as_an_address() {
    let cases = [
        ("127.0.0.1:443", "127.0.0.1:443", true),
        ("127.0.0.0/8:443", "127.0.0.1:443", true),
        ("127.0.0.1:443", "[::ffff:127.0.0.1]:443", true),
        ("127.0.0.1:444", "127.0.0.1:443", false),
        ("127.0.0.2:443", "127.0.0.1:443", false),
        ("[::1]:443", "[::1]:443", true),
        ("[::/96]:443", "[::1]:443", false),
        ("100.64.0.0/10:443", "100.64.0.1:443", true),
        ("100.64.0.0/10:443", "100.100.100.200:443", false),
        ("169.254.0.0/16:443", "169.254.1.1:443", true),
        ("169.254.0.0/16:443", "169.254.169.254:443", false),
        ("169.254.169.254:443", "169.254.169.254:443", true),
        ("[64:ff9b::/96]:443", "[64:ff9b::a00:7]:443", true),
    ];
    for (pattern, address, dialled) in cases {
        let list = list(&[pattern, "git.acme.internal:443"]);
        let address: SocketAddr = address.parse().unwrap();
        let verdict = list.dialable(None, &target("git.acme.internal:443"), &[address], &[]);
        assert_eq!(verdict.is_ok(), dialled, "{pattern} {address}");
    }
}

#[test]
fn address_literals_are_judged_like_resolved_addresses() {
    let wide = list(&["0.0.0.0/0:1-65535", "127.0.0.1:8080"]);
    let cases = [
        ("10.0.0.7:22", &["10.0.0.7:22"][..], Ok(addresses(&["10.0.0.7:22"]))),
        ("127.0.0.1:8080", &["127.0.0.1:8080"], Ok(addresses(&["127.0.0.1:8080"]))),
        ("127.0.0.1:22", &["127.0.0.1:22"], Err(Cause::AddressForbidden)),
        ("10.0.0.7:22", &["10.0.0.8:22"], Err(Cause::AddressForbidden)),
        ("[fd00::1]:22", &["[fd00::1]:22"], Err(Cause::NotOnAllowList)),
    ];
    for (asked, resolved, expected) in cases {
        assert_eq!(wide.dialable(None, &target(asked), &addresses(resolved), &[]), expected, "{asked}");
    }
}

#[test]
fn own_listeners_are_dialled_only_where_they_are_listed_alone() {
    let name = "git.acme.internal:9090";
    let cases: &[(&[&str], &str, &str, bool)] = &[
        (&[name], "10.0.0.5:9090", "10.0.0.5:9090", false),
        (&[name, "10.0.0.0/8:9090"], "10.0.0.5:9090", "10.0.0.5:9090", false),
        (&[name, "10.0.0.5:9090"], "10.0.0.5:9090", "10.0.0.5:9090", true),
        (&[name], "10.0.0.5:9091", "10.0.0.5:9090", true),
        (&[name], "10.0.0.6:9090", "10.0.0.5:9090", true),
        (&[name, "127.0.0.0/8:9090"], "127.0.0.1:9090", "127.0.0.1:9090", false),
        (&[name, "127.0.0.1:9090"], "127.0.0.1:9090", "127.0.0.1:9090", true),
        (&[name, "127.0.0.0/8:9090"], "127.0.0.1:9090", "127.0.0.2:9090", true),
        (&[name, "127.0.0.0/8:9090"], "0.0.0.0:9090", "127.0.0.2:9090", false),
        (&[name, "127.0.0.0/8:9090"], "[::]:9090", "127.0.0.1:9090", false),
        (&[name, "127.0.0.0/8:9090"], "[::ffff:127.0.0.1]:9090", "127.0.0.1:9090", false),
        (&[name, "0.0.0.0/8:9090"], "127.0.0.1:9090", "0.0.0.0:9090", false),
    ];
    for (patterns, listener, address, dialled) in cases {
        let verdict = list(patterns).dialable(None, &target(name), &addresses(&[address]), &addresses(&[listener]));
        assert_eq!(verdict.is_ok(), *dialled, "{patterns:?} {listener} {address}");
    }
}

#[test]
fn nothing_resolved_is_not_the_same_as_nothing_permitted() {
    let list = list(&["git.acme.internal:443"]);
    assert_eq!(list.dialable(None, &target("git.acme.internal:443"), &[], &[]), Err(Cause::NameNotResolved));
    assert_eq!(list.dialable(None, &target("git.acme.internal:22"), &[], &[]), Err(Cause::NotOnAllowList));
}

#[test]
fn dials_the_port_that_was_asked_for() {
    let list = list(&["git.acme.internal:443"]);
    let dialable = list.dialable(None, &target("git.acme.internal:443"), &addresses(&["10.0.0.7:22"]), &[]);
    assert_eq!(dialable, Ok(addresses(&["10.0.0.7:443"])));
}

#[test]
fn a_flood_of_addresses_is_cut() {
    let list = list(&["git.acme.internal:443"]);
    let resolved: Vec<_> = (0..=255).map(|host| SocketAddr::from(([10, 0, 0, host], 443))).collect();
    let dialable = list.dialable(None, &target("git.acme.internal:443"), &resolved, &[]).unwrap();
    assert_eq!(dialable, resolved[..ADDRESSES_MAX]);
}

#[test]
fn what_is_shut_out_is_neither_permitted_by_name_nor_dialled_by_address() {
    let patterns = ["git.acme.internal:22", "web.acme.internal:443", "10.0.0.0/8:443"];
    let list = list(&patterns);
    let denied = ["git.acme.internal:22", "10.9.0.0/16:443"].map(|text| text.parse().unwrap()).to_vec();
    let less = list.without(denied);
    let target = |text: &str| text.parse::<Target>().unwrap();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    for (text, is_permitted) in [
        ("git.acme.internal:22", false),
        ("web.acme.internal:443", true),
        ("10.9.1.1:443", false),
        ("10.8.1.1:443", true),
        ("10.9.1.1:80", false),
    ] {
        assert_eq!(less.permits_target(None, &target(text)).is_ok(), is_permitted, "{text}");
    }
    let web = target("web.acme.internal:443");
    let (shut_out, open) = (at("10.9.1.1:443"), at("10.8.1.1:443"));
    assert_eq!(less.dialable(None, &web, &[shut_out, open], &[]), Ok(vec![open]));
    assert_eq!(less.dialable(None, &web, &[shut_out], &[]), Err(Cause::NotOnAllowList));
    assert_eq!(less.without(Vec::new()), list);
    assert_eq!(list.dialable(None, &web, &[shut_out], &[]), Ok(vec![shut_out]));
}

fn entry(target: &str, clients: &[&str]) -> Entry {
    let clients = clients.iter().map(|text| text.parse().unwrap()).collect();
    Entry { target: target.parse().unwrap(), clients: Some(clients) }
}

fn client(text: &str) -> Principal {
    text.parse().unwrap()
}

#[test]
fn an_entry_with_clients_is_for_them_alone() {
    let list = AllowList::new([
        entry("git.acme.internal:22", &["frontend", "spiffe://acme.example/client/indexer"]),
        entry("git.acme.internal:443", &[]),
        "npm.acme.internal:443".parse::<TargetPattern>().unwrap().into(),
    ]);
    assert!(list.names_clients());
    let cases = [
        ("spiffe://acme.example/client/frontend", "git.acme.internal:22", true),
        // The root decides who may bear the name; the domain counts where the owner wrote it down.
        ("spiffe://other.example/client/frontend", "git.acme.internal:22", true),
        ("spiffe://acme.example/client/indexer", "git.acme.internal:22", true),
        ("spiffe://other.example/client/indexer", "git.acme.internal:22", false),
        ("spiffe://acme.example/agent/frontend", "git.acme.internal:22", false),
        ("spiffe://acme.example/client/frontend-2", "git.acme.internal:22", false),
        ("spiffe://acme.example/client/frontend", "git.acme.internal:443", false),
        ("spiffe://acme.example/client/frontend", "npm.acme.internal:443", true),
        ("spiffe://acme.example/client/stranger", "npm.acme.internal:443", true),
    ];
    for (who, to, is_permitted) in cases {
        let verdict = list.permits_target(Some(&client(who)), &target(to));
        assert_eq!(verdict.is_ok(), is_permitted, "{who} {to}");
        let dialable = list.dialable(Some(&client(who)), &target(to), &addresses(&["10.0.0.7:1"]), &[]);
        assert_eq!(dialable.is_ok(), is_permitted, "{who} {to}");
    }
    // Before anybody has proved anything: what nobody may have is refused at once.
    for (to, is_permitted) in
        [("git.acme.internal:22", true), ("git.acme.internal:443", false), ("npm.acme.internal:443", true)]
    {
        assert_eq!(list.permits_target(None, &target(to)).is_ok(), is_permitted, "{to}");
    }
}

#[test]
fn an_address_that_is_listed_for_one_client_is_not_listed_for_another() {
    let local = |clients: &[&str]| entry("127.0.0.1:8080", clients);
    let list = AllowList::new([entry("localhost:8080", &["a", "b"]), local(&["b"])]);
    let resolved = addresses(&["127.0.0.1:8080"]);
    let dial = |who: &str, own: &[SocketAddr]| {
        let who = client(&format!("spiffe://acme.example/client/{who}"));
        list.dialable(Some(&who), &target("localhost:8080"), &resolved, own)
    };
    assert_eq!(dial("a", &[]), Err(Cause::AddressForbidden));
    assert_eq!(dial("b", &[]), Ok(resolved.clone()));
    assert_eq!(dial("a", &resolved), Err(Cause::AddressForbidden));
    assert_eq!(dial("b", &resolved), Ok(resolved.clone()));
}

#[test]
fn entries_are_written_in_one_way_and_clients_are_read_strictly() {
    assert_eq!(entry("a.b:1", &["y", "x", "y"]).to_string(), "a.b:1 for x y");
    assert_eq!(entry("a.b:1", &[]).to_string(), "a.b:1 for nobody");
    assert_eq!(Entry::from("a.b:1".parse::<TargetPattern>().unwrap()).to_string(), "a.b:1");
    for text in ["", "Frontend", "front end", "client/frontend", "spiffe://acme.example/client", "*"] {
        assert!(matches!(text.parse::<ListedClient>(), Err(InvalidClient::Spelling(_))), "{text}");
    }
    let agent = "spiffe://acme.example/agent/acme".parse::<ListedClient>();
    assert_eq!(agent, Err(InvalidClient::Role(Role::Agent)));
}

/// Whatever a list says, no client gets more of it than everybody together, and a shorter list never permits more.
#[test]
fn a_list_with_fewer_entries_or_clients_never_permits_more() {
    let entries = [
        entry("git.acme.internal:22", &["frontend"]),
        entry("git.acme.internal:1-443", &["frontend", "indexer"]),
        "10.0.0.0/8:443".parse::<TargetPattern>().unwrap().into(),
        entry("127.0.0.1:443", &["indexer"]),
    ];
    let whole = AllowList::new(entries.clone());
    for left_out in 0..entries.len() {
        let rest = entries.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, entry)| entry.clone());
        let less = AllowList::new(rest);
        for who in ["frontend", "indexer", "stranger"] {
            let who = client(&format!("spiffe://acme.example/client/{who}"));
            for to in ["git.acme.internal:22", "git.acme.internal:443", "10.0.0.7:443", "127.0.0.1:443"] {
                let to = target(to);
                let permits = |list: &AllowList, who: Option<&Principal>| list.permits_target(who, &to).is_ok();
                assert!(permits(&whole, Some(&who)) || !permits(&less, Some(&who)), "{who} {to}");
                assert!(permits(&whole, None) || !permits(&whole, Some(&who)), "{who} {to}");
            }
        }
    }
}
