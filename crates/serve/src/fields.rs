//! A request's fields, read one by one, so that an error names the parameter and nothing is ignored silently.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// What is left of a JSON object.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The object in `body`.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::bad_request("the body is JSON but no object")),
            Err(e) => Err(ApiError::bad_request(format!("the body is no JSON: {e}"))),
        }
    }

    /// Field `name`; `null` is as good as absent.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => serde_json::from_value(v).map(Some).map_err(|e| ApiError::param(name, e.to_string())),
        }
    }

    /// Field `name`, which must be there.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::param(name, "missing"))
    }

    /// Field `name`, or `default`.
    pub(crate) fn or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T, ApiError> {
        Ok(self.take(name)?.unwrap_or(default))
    }

    /// Drops fields that change no answer.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Refuses field `name` unless it says `neutral`, which asks for nothing.
    pub(crate) fn only(&mut self, name: &str, neutral: &[Value]) -> Result<(), ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(()),
            Some(v) if neutral.contains(&v) => Ok(()),
            Some(v) => {
                let list: Vec<String> = neutral.iter().map(Value::to_string).collect();
                Err(ApiError::param(
                    name,
                    format!("{v} is not supported here; leave it out, or {}", list.join(", ")),
                ))
            }
        }
    }

    /// Refuses what nobody read.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError {
                code: Some("unknown_parameter"),
                ..ApiError::param(name, "this server knows no such parameter")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(v: &Value) -> Fields {
        Fields::parse(v.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn errors_name_the_parameter() {
        let mut f = fields(&json!({ "n": "two", "suffix": "x", "user": "u", "foo": 1, "echo": null }));
        assert_eq!(f.take::<usize>("n").unwrap_err().param.as_deref(), Some("n"));
        assert_eq!(f.or("echo", false), Ok(false));
        assert_eq!(f.need::<String>("prompt").unwrap_err().message, "prompt: missing");
        assert!(f.only("suffix", &[json!("")]).is_err());
        f.ignore(&["user"]);
        let unknown = f.finish().unwrap_err();
        assert_eq!((unknown.param.as_deref(), unknown.code), (Some("foo"), Some("unknown_parameter")));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "[1]", "{\"a\":", "\u{7f}"] {
            assert_eq!(Fields::parse(body.as_bytes()).unwrap_err().status, 400);
        }
    }
}
