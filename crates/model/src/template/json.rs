//! Values as Python writes them.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

/// `str()` of truth values and nothing; everything else as minijinja writes it.
pub(super) fn python_formatter(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool if value.is_true() => out.write_str("True").map_err(Error::from),
        ValueKind::Bool => out.write_str("False").map_err(Error::from),
        ValueKind::None => out.write_str("None").map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `json.dumps(x, ensure_ascii=False)`, with `indent`: `", "` and `": "` between parts, or one part a line.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write(value, indent.map(|n| n.min(16)), 0, &mut out)?;
    Ok(Value::from(out))
}

fn write(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    /// Deeper values than this are no conversation.
    const MAX_DEPTH: usize = 64;
    let bad = |what: &str| Error::new(ErrorKind::BadSerialization, format!("tojson of {what}"));
    if depth > MAX_DEPTH {
        return Err(bad("a value nested too deeply"));
    }
    let string = |text: &str| serde_json::to_string(text).map_err(|e| bad(&e.to_string()));
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => out.push_str(&string(value.as_str().unwrap_or_default())?),
        ValueKind::Seq | ValueKind::Iterable => {
            let parts = value.try_iter()?.map(|v| (None, v));
            block(['[', ']'], parts, indent, depth, out)?;
        }
        ValueKind::Map => {
            let parts = value.try_iter()?.map(|k| {
                let v = value.get_item(&k).unwrap_or_default();
                (Some(k.to_string()), v)
            });
            block(['{', '}'], parts, indent, depth, out)?;
        }
        ValueKind::Undefined => return Err(bad("an undefined value")),
        other => return Err(bad(&other.to_string())),
    }
    Ok(())
}

fn block(
    [open, close]: [char; 2],
    parts: impl Iterator<Item = (Option<String>, Value)>,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(n) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(n * depth));
        }
    };
    out.push(open);
    let mut any = false;
    for (key, value) in parts {
        if any {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        any = true;
        line(depth + 1, out);
        if let Some(key) = key {
            write(&Value::from(key), None, depth + 1, out)?;
            out.push_str(": ");
        }
        write(&value, indent, depth + 1, out)?;
    }
    if any {
        line(depth, out);
    }
    out.push(close);
    Ok(())
}
