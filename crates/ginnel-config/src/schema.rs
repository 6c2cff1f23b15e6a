//! Descriptions as JSON Schema, draft 2020-12.
//!
//! The schema is what editors complete and check with: every file that is accepted satisfies it. What it cannot say (that
//! a rule names known identities, that a port is below 65536) only reading the file finds.

use serde_json::{Map, Value as Json, json};

use crate::shape::{Field, Kind, Presence};

/// The JSON Schema of a whole file.
pub fn document(title: &str, kind: &Kind) -> Json {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!(title));
    schema.extend(keywords(kind));
    Json::Object(schema)
}

fn keywords(kind: &Kind) -> Map<String, Json> {
    let mut schema = Map::new();
    match kind {
        Kind::Scalar(Json::Object(keywords)) => schema.extend(keywords.clone()),
        Kind::Scalar(_) => {}
        Kind::List { item, items_min, word } => {
            let mut list = Map::new();
            list.insert("type".to_owned(), json!("array"));
            list.insert("items".to_owned(), Json::Object(keywords(item)));
            if *items_min > 0 {
                list.insert("minItems".to_owned(), json!(items_min));
            }
            match word {
                Some(word) => {
                    schema.insert("anyOf".to_owned(), json!([list, {"type": "string", "enum": [word]}]));
                }
                None => schema.extend(list),
            }
        }
        Kind::SectionOr { fields, short } => {
            let section = Json::Object(keywords(&Kind::Section(fields.clone())));
            schema.insert("anyOf".to_owned(), json!([short, section]));
        }
        Kind::Section(fields) => {
            schema.insert("type".to_owned(), json!("object"));
            schema.insert("additionalProperties".to_owned(), json!(false));
            let properties: Map<_, _> =
                fields.iter().map(|field| (field.name.to_owned(), Json::Object(property(field)))).collect();
            schema.insert("properties".to_owned(), Json::Object(properties));
            let required: Vec<_> = fields.iter().filter(|field| field.is_required()).map(|field| field.name).collect();
            if !required.is_empty() {
                schema.insert("required".to_owned(), json!(required));
            }
            let choices = fields.iter().filter(|field| field.presence == Presence::Choice);
            let choices: Vec<_> = choices.map(|field| json!({"required": [field.name]})).collect();
            if !choices.is_empty() {
                schema.insert("oneOf".to_owned(), json!(choices));
            }
        }
    }
    schema
}

fn property(field: &Field) -> Map<String, Json> {
    let mut schema = keywords(&field.kind);
    schema.insert("description".to_owned(), json!(field.doc));
    if let Presence::Default(text) = field.presence {
        schema.insert("default".to_owned(), default_value(text, &field.kind));
    }
    schema
}

/// A default as the schema's own type: spelled `false` in the declaration, a boolean in the schema, and so for numbers.
pub(crate) fn default_value(text: &str, kind: &Kind) -> Json {
    match kind {
        Kind::Scalar(schema) if schema["type"] == "boolean" => json!(text == "true"),
        Kind::Scalar(schema) if schema["type"] == "integer" => json!(text.parse::<u64>().ok()),
        Kind::Scalar(_) | Kind::List { .. } | Kind::Section(_) | Kind::SectionOr { .. } => json!(text),
    }
}
