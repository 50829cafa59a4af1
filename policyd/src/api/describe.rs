// SPDX-License-Identifier: GPL-3.0-only
//! What a handler takes and gives, read off its types: so the document says what the code does.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use policyd_api::ErrorBody;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::door::Caller;
use super::handlers::Refusal;

/// Schemas as they are needed: those of answers are shared by name, those of questions stand where they are used, since a
/// type may ask for less than it tells.
pub struct Schemas {
    answers: SchemaGenerator,
    questions: SchemaGenerator,
}

impl Schemas {
    pub fn new() -> Schemas {
        let mut answers = SchemaSettings::draft2020_12().for_serialize();
        answers.definitions_path = "/components/schemas".into();
        answers.meta_schema = None;
        let mut questions = SchemaSettings::draft2020_12().for_deserialize();
        questions.inline_subschemas = true;
        questions.meta_schema = None;
        Schemas {
            answers: answers.into_generator(),
            questions: questions.into_generator(),
        }
    }

    /// Of what is answered.
    pub fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    /// Of what is asked.
    pub fn question<T: JsonSchema>(&mut self) -> Value {
        let mut schema = self.questions.subschema_for::<T>();
        RecursiveTransform(bound).transform(&mut schema);
        schema.to_value()
    }

    /// The shared schemas, by name.
    pub fn shared(&mut self) -> Map<String, Value> {
        self.answers.take_definitions(true)
    }
}

/// Says in so many words what a format only hints at: how large a number may be.
fn bound(schema: &mut Schema) {
    let max = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => u64::from(u8::MAX),
        Some("uint16") => u64::from(u16::MAX),
        Some("uint32") => u64::from(u32::MAX),
        Some("uint64" | "uint") => u64::MAX,
        _ => return,
    };
    if schema.get("maximum").is_none() {
        schema.insert("maximum".into(), max.into());
    }
}

/// What is known of a handler.
#[derive(Default)]
pub struct About {
    /// OpenAPI parameter objects.
    pub parameters: Vec<Value>,
    /// Name of the segment of its path that varies.
    pub segment: Option<String>,
    /// OpenAPI request body object.
    pub body: Option<Value>,
    /// OpenAPI response object of status 200.
    pub answer: Option<Value>,
    /// OpenAPI response objects of other statuses that are no refusals.
    pub besides: Vec<(u16, Value)>,
    /// Why it may refuse, by status, beside what any may say.
    pub refusals: BTreeMap<u16, &'static str>,
}

/// Something that a handler takes.
pub trait Takes {
    fn describe(about: &mut About, schemas: &mut Schemas);
}

/// What a handler gives.
pub trait Gives {
    fn describe(about: &mut About, schemas: &mut Schemas);
}

/// A handler that takes these.
pub trait Described<Taken> {
    fn describe(about: &mut About, schemas: &mut Schemas);
}

macro_rules! described {
    ($($taken:ident)*) => {
        impl<F, Fut, Given, $($taken),*> Described<($($taken,)*)> for F
        where
            F: Fn($($taken),*) -> Fut,
            Fut: Future<Output = Given>,
            Given: Gives,
            $($taken: Takes),*
        {
            fn describe(about: &mut About, schemas: &mut Schemas) {
                $($taken::describe(about, schemas);)*
                Given::describe(about, schemas);
            }
        }
    };
}
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

impl<S> Takes for State<S> {
    fn describe(_: &mut About, _: &mut Schemas) {}
}

impl Takes for Caller {
    fn describe(_: &mut About, _: &mut Schemas) {}
}

/// An OpenAPI response object.
pub fn response(description: &str, media_type: &str, schema: &Value) -> Value {
    json!({ "description": description, "content": { media_type: { "schema": schema } } })
}

impl<T: JsonSchema> Gives for Result<Json<T>, Refusal> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        about.answer = Some(response(
            "The answer.",
            "application/json",
            &schemas.answer::<T>(),
        ));
    }
}

/// What any route may answer when it refuses.
pub const REFUSALS: [(u16, &str); 4] = [
    (
        403,
        "The caller's role is too low, or a browser asks for what it may not; the text says which, and what to do.",
    ),
    (
        429,
        "The caller has asked too often; `Retry-After` says when to try again.",
    ),
    (500, "The daemon's own trouble."),
    (503, "Not now; the text says why."),
];

/// The refusals of a route as OpenAPI response objects.
pub fn refusals(about: &About, schemas: &mut Schemas) -> Map<String, Value> {
    let error = schemas.answer::<ErrorBody>();
    let all = about.refusals.iter().map(|(status, why)| (*status, *why));
    all.chain(REFUSALS)
        .map(|(status, why)| {
            let mut response = response(why, "application/json", &error);
            match status {
                429 => {
                    response["headers"] = header(
                        "Retry-After",
                        "Seconds.",
                        &json!({ "type": "integer", "minimum": 1 }),
                    )
                }
                412 => response["headers"] = etag(),
                _ => {}
            }
            (status.to_string(), response)
        })
        .collect()
}

/// The header that has the generation.
pub fn etag() -> Value {
    header(
        "ETag",
        "The policy generation in force, in quotes.",
        &json!({ "type": "string", "pattern": "^\"[0-9]+\"$" }),
    )
}

/// OpenAPI headers with this one.
pub fn header(name: &str, description: &str, schema: &Value) -> Value {
    json!({ name: { "description": description, "schema": schema } })
}
