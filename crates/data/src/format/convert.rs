//! One row to one example, once its layout is known.

use serde_json::Value;

use super::ReadOptions;
use super::error::{FormatError, Problem};
use super::json::type_name;
use super::layout::{Layout, Resolved};
use super::table::{Row, Table};
use crate::example::{Kind, Message, Role};
use crate::template::{ALPACA, ALPACA_INPUT, Prompt, Template, TemplateError};

/// Reads the cells of one table by the parts they play.
pub(super) struct Converter<'a> {
    table: &'a Table,
    resolved: &'a Resolved,
    prompt: Option<&'a Prompt>,
    completion_prefix: &'a str,
    /// Without and with input.
    alpaca: [Template; 2],
}

impl<'a> Converter<'a> {
    /// Checks that the template suits the layout and names only columns that exist.
    pub(super) fn new(
        table: &'a Table,
        resolved: &'a Resolved,
        options: &'a ReadOptions,
    ) -> Result<Self, FormatError> {
        let prompt = options.prompt.as_ref();
        let spec = resolved.layout.spec();
        let suits = match (prompt, resolved.layout) {
            (None, _) => true,
            (Some(Prompt::Chat), layout) => !matches!(layout, Layout::Labelled | Layout::Text),
            (Some(Prompt::Alpaca), layout) => matches!(layout, Layout::Alpaca | Layout::PromptCompletion),
            (Some(Prompt::Custom(_)), layout) => !matches!(layout, Layout::Messages | Layout::Sharegpt),
        };
        if !suits {
            let template = match prompt {
                Some(Prompt::Custom(t)) => t.to_string(),
                Some(Prompt::Chat) => "chat".to_owned(),
                _ => "alpaca".to_owned(),
            };
            let e = TemplateError::Misplaced { template, layout: spec.id, takes: spec.templates };
            return Err(FormatError::new(&table.file, Problem::Template(e)));
        }
        if let Some(Prompt::Custom(t)) = prompt {
            let known = || table.columns.iter().map(String::as_str).chain(resolved.columns.keys().copied());
            if let Some(name) = t.placeholders().find(|p| known().all(|k| k != *p)) {
                let near = antiphon_core::nearest(name, known()).map(str::to_owned);
                let columns = known().map(str::to_owned).collect();
                let e = TemplateError::NoColumn { name: name.to_owned(), columns, near };
                return Err(FormatError::new(&table.file, Problem::Template(e)));
            }
        }
        let built_in =
            |t| Template::parse(t).map_err(|e| FormatError::new(&table.file, Problem::Template(e)));
        let alpaca = [built_in(ALPACA)?, built_in(ALPACA_INPUT)?];
        Ok(Self { table, resolved, prompt, completion_prefix: &options.completion_prefix, alpaca })
    }

    /// `None` for a row in which there is nothing to learn: a blank text or completion, or no turn of the assistant.
    pub(super) fn kind(&self, row: &Row) -> Result<Option<Kind>, FormatError> {
        let kind = match self.resolved.layout {
            Layout::Messages => Kind::Chat { messages: self.turns(row, "messages")? },
            Layout::Sharegpt => {
                let mut messages = self.system(row)?;
                messages.extend(self.turns(row, "conversations")?);
                Kind::Chat { messages }
            }
            Layout::Alpaca => self.alpaca(row)?,
            Layout::PromptCompletion => self.prompt_completion(row)?,
            Layout::Labelled => {
                let text = self.text(row)?;
                let label = self.cell(row, "label")?.trim().to_owned();
                if label.is_empty() {
                    return Err(self.wrong(row, "label", "a label", "nothing"));
                }
                Kind::Labelled { text, label }
            }
            Layout::Text => Kind::Lm { text: self.text(row)? },
        };
        let learnable = match &kind {
            // The template around a text does not make it less blank.
            Kind::Lm { .. } | Kind::Labelled { .. } => !self.cell(row, "text")?.trim().is_empty(),
            Kind::Completion { completion, .. } => !completion.trim().is_empty(),
            Kind::Chat { messages } => {
                messages.iter().any(|m| m.role == Role::Assistant && !m.content.trim().is_empty())
            }
        };
        Ok(learnable.then_some(kind))
    }

    /// The cell of the field column, if there is one.
    pub(super) fn field(&self, row: &Row) -> Result<Option<String>, FormatError> {
        if !self.resolved.columns.contains_key("field") {
            return Ok(None);
        }
        let value = self.cell(row, "field")?.trim().to_owned();
        if value.is_empty() { Err(self.wrong(row, "field", "a value", "nothing")) } else { Ok(Some(value)) }
    }

    fn text(&self, row: &Row) -> Result<String, FormatError> {
        match self.prompt {
            Some(Prompt::Custom(t)) => self.render(t, row),
            _ => self.cell(row, "text"),
        }
    }

    fn prompt_completion(&self, row: &Row) -> Result<Kind, FormatError> {
        let completion = self.cell(row, "completion")?;
        let given = self.cell(row, "prompt")?;
        let prompt = match self.prompt {
            None => given,
            Some(Prompt::Custom(t)) => self.render(t, row)?,
            Some(Prompt::Alpaca) => self.alpaca[0].render(|_| Ok::<_, FormatError>(given.clone()))?,
            Some(Prompt::Chat) => return Ok(Kind::Chat { messages: pair(given, completion).into() }),
        };
        Ok(self.completed(prompt, &completion))
    }

    fn completed(&self, prompt: String, completion: &str) -> Kind {
        Kind::Completion { prompt, completion: format!("{}{completion}", self.completion_prefix) }
    }

    fn alpaca(&self, row: &Row) -> Result<Kind, FormatError> {
        let completion = self.cell(row, "output")?;
        let instruction = self.cell(row, "instruction")?;
        let input = self.optional(row, "input")?;
        if matches!(self.prompt, Some(Prompt::Chat)) {
            let mut messages = self.system(row)?;
            messages.extend(self.history(row)?);
            let asked = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
            messages.extend(pair(asked, completion));
            return Ok(Kind::Chat { messages });
        }
        if !self.history(row)?.is_empty() || !self.optional(row, "system")?.is_empty() {
            return Err(self.wrong(
                row,
                if self.history(row)?.is_empty() { "system" } else { "history" },
                "empty unless `template = \"chat\"`, which alone can place it",
                "text",
            ));
        }
        let prompt = match self.prompt {
            Some(Prompt::Custom(t)) => self.render(t, row)?,
            _ => self.alpaca[usize::from(!input.is_empty())].render(|name| {
                Ok::<_, FormatError>(if name == "input" { input.clone() } else { instruction.clone() })
            })?,
        };
        Ok(self.completed(prompt, &completion))
    }

    /// The system turn, if the row has one.
    fn system(&self, row: &Row) -> Result<Vec<Message>, FormatError> {
        let content = self.optional(row, "system")?;
        Ok(if content.is_empty() { Vec::new() } else { vec![Message { role: Role::System, content }] })
    }

    /// Earlier turns of an Alpaca row: `[[asked, answered], …]`.
    fn history(&self, row: &Row) -> Result<Vec<Message>, FormatError> {
        let Some(column) = self.resolved.columns.get("history") else { return Ok(Vec::new()) };
        let pairs = match row.cells.get(column) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(pairs)) => pairs,
            Some(other) => return Err(self.wrong(row, "history", "a list of pairs", type_name(other))),
        };
        let mut turns = Vec::new();
        for p in pairs {
            match p.as_array().map(Vec::as_slice) {
                Some([Value::String(asked), Value::String(answered)]) => {
                    turns.extend(pair(asked.clone(), answered.clone()));
                }
                _ => return Err(self.wrong(row, "history", "pairs of texts", type_name(p))),
            }
        }
        Ok(turns)
    }

    /// The turns of a conversation, `{role, content}` or `{from, value}`.
    fn turns(&self, row: &Row, part: &'static str) -> Result<Vec<Message>, FormatError> {
        let column = &self.resolved.columns[part];
        let turns = match row.cells.get(column) {
            Some(Value::Array(turns)) => turns,
            Some(other) => return Err(self.wrong(row, part, "a list of turns", type_name(other))),
            None => return Err(self.no_cell(row, column)),
        };
        let mut messages = Vec::with_capacity(turns.len());
        for (i, turn) in turns.iter().enumerate() {
            let get = |names: [&str; 2]| names.iter().find_map(|n| turn.get(n));
            let at = |key: &str| format!("{column}[{i}].{key}");
            let wrong = |key: &str, expected, found: String| {
                FormatError::at(
                    &self.table.file,
                    row.place,
                    Problem::WrongCell { column: at(key), expected, found },
                )
            };
            let role = match get(["role", "from"]) {
                Some(Value::String(role)) => role,
                other => {
                    let found = other.map_or("nothing", type_name).to_owned();
                    return Err(wrong("role", "a text under `role` or `from`", found));
                }
            };
            let role = match role.as_str() {
                "system" | "developer" => Role::System,
                "user" | "human" => Role::User,
                "assistant" | "gpt" | "model" => Role::Assistant,
                "tool" | "observation" | "function" => Role::Tool,
                other => {
                    let known = "one of system, user (human), assistant (gpt), tool (observation)";
                    return Err(wrong("role", known, format!("`{other}`")));
                }
            };
            let content = match get(["content", "value"]) {
                Some(Value::String(content)) => content.clone(),
                other => {
                    let found = other.map_or("nothing", type_name).to_owned();
                    return Err(wrong("content", "a text under `content` or `value`", found));
                }
            };
            messages.push(Message { role, content });
        }
        Ok(messages)
    }

    fn render(&self, template: &Template, row: &Row) -> Result<String, FormatError> {
        template.render(|name| {
            let column = self.resolved.columns.get(name).map_or(name, String::as_str);
            match row.cells.get(column) {
                // Optional cells of rows that lack them read as empty, like those of rows that have them empty.
                None | Some(Value::Null) if !self.required(name) => Ok(String::new()),
                _ => self.named(row, column),
            }
        })
    }

    fn required(&self, part: &str) -> bool {
        self.resolved.layout.spec().parts.iter().any(|p| p.name == part && p.required)
    }

    fn optional(&self, row: &Row, part: &'static str) -> Result<String, FormatError> {
        match self.resolved.columns.get(part).map(|c| (c, row.cells.get(c))) {
            None | Some((_, None | Some(Value::Null))) => Ok(String::new()),
            Some((column, _)) => self.named(row, column),
        }
    }

    fn cell(&self, row: &Row, part: &'static str) -> Result<String, FormatError> {
        self.named(row, &self.resolved.columns[part])
    }

    /// The cell of `column` as text; numbers and booleans as JSON prints them.
    fn named(&self, row: &Row, column: &str) -> Result<String, FormatError> {
        match row.cells.get(column) {
            Some(Value::String(s)) => Ok(s.clone()),
            Some(v @ (Value::Number(_) | Value::Bool(_))) => Ok(v.to_string()),
            Some(other) => Err(FormatError::at(
                &self.table.file,
                row.place,
                Problem::WrongCell {
                    column: column.to_owned(),
                    expected: "a text",
                    found: type_name(other).to_owned(),
                },
            )),
            None => Err(self.no_cell(row, column)),
        }
    }

    fn no_cell(&self, row: &Row, column: &str) -> FormatError {
        FormatError::at(
            &self.table.file,
            row.place,
            Problem::NoCell { column: column.to_owned(), columns: row.cells.keys().cloned().collect() },
        )
    }

    fn wrong(&self, row: &Row, part: &str, expected: &'static str, found: &str) -> FormatError {
        FormatError::at(
            &self.table.file,
            row.place,
            Problem::WrongCell {
                column: self.resolved.columns.get(part).cloned().unwrap_or_else(|| part.to_owned()),
                expected,
                found: found.to_owned(),
            },
        )
    }
}

fn pair(asked: String, answered: String) -> [Message; 2] {
    [Message { role: Role::User, content: asked }, Message { role: Role::Assistant, content: answered }]
}
