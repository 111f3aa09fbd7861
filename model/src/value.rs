// SPDX-License-Identifier: Apache-2.0
//! The door between a generic value (from YAML or JSON) and the wire structs: a deserializer over [`serde_json::Value`]
//! whose errors are structured, so that a message can say what was found, what belongs there and what was meant.
//!
//! Called by `manifest`. Invariant: the path of an error starts at the document's root.

use std::fmt;

use serde::{
    de::{
        self, DeserializeOwned, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use crate::invalid::{Finding, Found, Problem};

/// Reads a `T`, or tells the first place where `value` has another shape.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Finding> {
    serde_path_to_error::deserialize(Node(value)).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        match error.into_inner() {
            Shape::Missing(field) => Finding {
                field: join(&path, field),
                problem: Problem::Missing {
                    example: example(&path, field),
                },
            },
            Shape::Problem(problem) => Finding { field: path, problem },
        }
    })
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// What a required field may look like.
fn example(path: &str, field: &str) -> &'static str {
    match field {
        "kind" if path == "spec.healthChecks" => "kind: http",
        "name" => "name: llama",
        "address" => "address: 10.1.0.2",
        "addresses" => "addresses: [10.96.0.10]",
        "ports" => "ports: [{port: 8000}]",
        "port" => "port: 8000",
        "targetRef" => "targetRef: {kind: Service, name: llama}",
        "kind" => "kind: Service",
        "timeout" => "timeout: 3h",
        "action" => "action: allow",
        "tiers" => "tiers: [node, zone, region]",
        "metadata" => "metadata: {name: llama}",
        "spec" => "spec: {...}",
        _ => "its value",
    }
}

/// Why a value does not fit.
#[derive(Debug)]
enum Shape {
    Missing(&'static str),
    Problem(Problem),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::Problem(problem) => problem.fmt(f),
        }
    }
}

impl std::error::Error for Shape {}

impl de::Error for Shape {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Problem(Problem::Other {
            message: message.to_string(),
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Problem(Problem::WrongType {
            found: found.into(),
            expected: expectation(&expected.to_string()),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::Problem(Problem::UnknownField {
            found: field.to_owned(),
            known: expected,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

/// The word of the user for what serde expects.
fn expectation(serde: &str) -> &'static str {
    match serde {
        "a string" => "text",
        "a sequence" => "a list",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        _ => "a mapping",
    }
}

impl From<Unexpected<'_>> for Found {
    fn from(unexpected: Unexpected<'_>) -> Self {
        match unexpected {
            Unexpected::Bool(value) => Self::Bool(value),
            Unexpected::Unsigned(value) => Self::Number(value.to_string()),
            Unexpected::Signed(value) => Self::Number(value.to_string()),
            Unexpected::Float(value) => Self::Number(format!("{value:?}")),
            Unexpected::Str(text) => Self::Text(text.to_owned()),
            Unexpected::Seq => Self::List,
            Unexpected::Map => Self::Mapping,
            _ => Self::Nothing,
        }
    }
}

impl From<&Value> for Found {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Mapping,
        }
    }
}

/// A value that deserializes with [`Shape`] errors.
struct Node(Value);

impl IntoDeserializer<'_, Shape> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Shape;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Shape> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(&mut SeqDeserializer::new(items.into_iter().map(Node))),
            Value::Object(fields) => visitor.visit_map(&mut MapDeserializer::new(
                fields.into_iter().map(|(name, value)| (name, Node(value))),
            )),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Shape> {
        if self.0.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    // A struct is written as a mapping: a list of its fields in order is no way to write one.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Shape> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            other => Err(Shape::Problem(Problem::WrongType {
                found: (&other).into(),
                expected: "a mapping",
            })),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
