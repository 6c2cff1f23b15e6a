use ginnel_core::audit::Timestamp;
use serde_json::{Value as Json, json};

use super::{ROLES, findings, good};
use crate::finding::Collector;
use crate::tree::{self, Node, Value};
use crate::{Daemon, Overrides, check, example, schema};

/// A tree as JSON, the way that a YAML editor with a schema sees the file.
fn as_json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) if scalar.kind() == "a boolean" => json!(scalar.text == "true"),
        Value::Scalar(scalar) if scalar.kind() == "a number" => {
            scalar.text.parse::<u64>().map_or_else(|_| json!(scalar.text), |number| json!(number))
        }
        Value::Scalar(scalar) => json!(scalar.text),
        Value::List(items) => items.iter().map(as_json).collect(),
        Value::Map(map) => map.entries().iter().map(|entry| (entry.key.clone(), as_json(&entry.node))).collect(),
        Value::Refused => panic!("unreadable at {}", node.place),
    }
}

fn read(text: &str) -> Json {
    let mut findings = Collector::new("example");
    let node = tree::parse(text, &mut findings).expect("YAML");
    assert!(findings.is_empty(), "{:?}", findings.finish());
    as_json(&node)
}

/// The keywords that our schemas use, and a panic on any other.
fn satisfies(value: &Json, schema: &Json) -> bool {
    schema.as_object().expect("an object").iter().all(|(keyword, argument)| match keyword.as_str() {
        "$schema" | "title" | "description" | "default" => true,
        "type" => match argument.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_u64(),
            other => panic!("{other:?}"),
        },
        "additionalProperties" => {
            assert_eq!(argument, false);
            value.as_object().is_none_or(|object| object.keys().all(|key| schema["properties"].get(key).is_some()))
        }
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(key, value)| argument.get(key).is_none_or(|schema| satisfies(value, schema)))
        }),
        "required" => {
            argument.as_array().into_iter().flatten().all(|key| value.get(key.as_str().expect("a key")).is_some())
        }
        "anyOf" => argument.as_array().expect("a list").iter().any(|choice| satisfies(value, choice)),
        "oneOf" => {
            let fitting = argument.as_array().expect("a list").iter().filter(|choice| satisfies(value, choice));
            fitting.count() == 1
        }
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| satisfies(item, argument))),
        "minimum" => value.as_u64().is_none_or(|number| number >= argument.as_u64().expect("a number")),
        "maximum" => value.as_u64().is_none_or(|number| number <= argument.as_u64().expect("a number")),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= argument.as_u64().expect("a number")),
        "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= argument.as_u64().expect("a number")),
        "enum" => argument.as_array().expect("a list").contains(value),
        "pattern" => value.as_str().is_none_or(|text| {
            let digits = match argument.as_str() {
                Some("^[0-9]+[smhd]$") => text.strip_suffix(['s', 'm', 'h', 'd']),
                Some("^[0-9]+[KMGT]iB$") => {
                    text.strip_suffix("iB").and_then(|text| text.strip_suffix(['K', 'M', 'G', 'T']))
                }
                other => panic!("{other:?}"),
            };
            digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        }),
        other => panic!("unknown keyword {other}"),
    })
}

/// The text with everything switched on that is only shown.
fn switched_on(text: &str) -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        match bare.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) || setting.starts_with("- ") => {
                format!("{}{setting}\n", &line[..line.len() - bare.len()])
            }
            Some(_) | None => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[test]
fn every_example_passes_check_and_schema_also_with_everything_switched_on() {
    let dir = tempfile::tempdir().expect("a directory");
    for role in ROLES {
        let shown = example(role);
        let all = switched_on(&shown);
        assert_ne!(shown, all, "{role}");
        let mut all = read(&all);
        without_what_means_nothing(&mut all);
        // JSON is YAML.
        for text in [shown, all.to_string()] {
            let path = dir.path().join(format!("{role}.yaml"));
            std::fs::write(&path, &text).expect("a file");
            let checked = check(role, &path, Timestamp::default());
            assert!(checked.as_ref().is_ok_and(Vec::is_empty), "{role}: {checked:?}\n{text}");
            assert!(satisfies(&read(&text), &schema(role)), "{role}");
        }
    }
}

/// Whether every setting of a schema is in a value that shows them all.
fn shows_all(value: &Json, schema: &Json) -> bool {
    match (&schema["properties"], value) {
        (Json::Object(properties), Json::Object(object)) => {
            properties.iter().all(|(key, schema)| object.get(key).is_some_and(|value| shows_all(value, schema)))
        }
        // What can be written short is shown in full somewhere.
        (_, Json::Array(items)) if schema["items"]["anyOf"].is_array() => {
            let whole = schema["items"]["anyOf"].as_array().into_iter().flatten().find(|way| way["type"] == "object");
            let whole = whole.expect("a section among the ways");
            items.iter().any(|item| item.is_object() && shows_all(item, whole))
        }
        (_, Json::Array(items)) => items.first().is_some_and(|item| shows_all(item, &schema["items"])),
        _ => true,
    }
}

#[test]
fn every_example_shows_every_setting() {
    for role in ROLES {
        assert!(shows_all(&read(&with_every_choice(&example(role))), &schema(role)), "{role}");
    }
}

/// The text with everything switched on, choices that exclude each other as well.
fn with_every_choice(text: &str) -> String {
    switched_on(&text.replace("##", "#"))
}

/// Leaves the choice of this number in every section that has choices, or the last one; returns the most choices of any section.
fn choose(value: &mut Json, schema: &Json, number: usize) -> usize {
    let Some(object) = value.as_object_mut() else { return 1 };
    let choices: Vec<_> = schema["oneOf"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = choices.iter().filter_map(|choice| choice["required"][0].as_str()).collect();
    let kept = names.get(number).or(names.last());
    object.retain(|key, _| !names.contains(&key.as_str()) || kept == Some(&key.as_str()));
    let below = object.iter_mut().map(|(key, value)| choose(value, &schema["properties"][key], number));
    below.max().unwrap_or(1).max(names.len())
}

/// Takes away what means nothing beside the rest: an account's number beside key files, and proofs at a server that passes enrolments on.
fn without_what_means_nothing(config: &mut Json) {
    let is_passed_on = config.pointer("/issuer/enrolment").is_some();
    if is_passed_on {
        config["issuer"].as_object_mut().expect("a section").remove("certificateLifetime");
        config.as_object_mut().expect("a file").remove("oidcIssuers");
        config["google"].as_object_mut().expect("a section").remove("idTokenKeys");
    }
    for identity in config.get_mut("identities").and_then(Json::as_array_mut).into_iter().flatten() {
        let identity = identity.as_object_mut().expect("a section");
        if identity.get("publicKeys").is_none_or(|keys| keys != "google") {
            identity.remove("uniqueId");
        }
        for proof in ["publicKeys", "uniqueId", "oidc"] {
            if is_passed_on {
                identity.remove(proof);
            }
        }
    }
}

#[test]
fn every_choice_of_an_example_passes_check_and_schema() {
    for role in ROLES {
        let (all, schema) = (read(&with_every_choice(&example(role))), schema(role));
        let most = choose(&mut all.clone(), &schema, 0);
        assert!(most >= 2 || role != Daemon::Server, "{role}");
        assert_eq!(satisfies(&all, &schema), most == 1, "{role}");
        for number in 0..most {
            let mut chosen = all.clone();
            choose(&mut chosen, &schema, number);
            without_what_means_nothing(&mut chosen);
            // JSON is YAML.
            assert_eq!(findings(role, &chosen.to_string(), &Overrides::none()), "", "{role}, choice {number}");
            assert!(satisfies(&chosen, &schema), "{role}, choice {number}");
        }
    }
}

#[test]
fn schema_and_loader_agree_on_missing_and_unknown_settings() {
    for role in ROLES {
        let (text, schema) = (good(role), schema(role));
        assert_eq!(
            (findings(role, text, &Overrides::none()).as_str(), satisfies(&read(text), &schema)),
            ("", true),
            "{role}"
        );

        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        assert!(required.len() >= 3, "{role}");
        for key in required {
            let mut broken = read(text);
            broken.as_object_mut().expect("an object").remove(key);
            assert!(!satisfies(&broken, &schema), "{role} without {key}");
            // JSON is YAML, so the same value can be read as a file.
            assert!(
                findings(role, &broken.to_string(), &Overrides::none()).contains("is required"),
                "{role} without {key}"
            );
        }
        for pointer in ["", "/server", "/enrolment"] {
            let mut broken = read(text);
            broken.as_object_mut().expect("an object").entry("enrolment").or_insert(json!({}));
            let section = broken.pointer_mut(pointer).and_then(Json::as_object_mut).expect("a section");
            section.insert("colour".to_owned(), json!("red"));
            assert!(!satisfies(&broken, &schema), "{role} {pointer}");
            assert!(
                findings(role, &broken.to_string(), &Overrides::none()).contains("unknown setting \"colour\""),
                "{role} {pointer}"
            );
        }
    }
}
