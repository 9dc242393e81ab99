//! Markup that cannot be injected into: only text known at compile time is written as it is, and
//! everything else passes through the escape.

use std::fmt::Display;

/// A page being written.
#[derive(Debug, Default)]
pub(crate) struct Html {
    out: String,
}

impl Html {
    /// Markup of our own.
    pub(crate) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.out.push_str(markup);
        self
    }

    /// Text of anybody.
    pub(crate) fn text(&mut self, text: impl Display) -> &mut Self {
        escape(&mut self.out, &text.to_string());
        self
    }

    /// `<tag a="b">`.
    pub(crate) fn open(
        &mut self,
        tag: &'static str,
        attributes: &[(&'static str, &dyn Display)],
    ) -> &mut Self {
        self.out.push('<');
        self.out.push_str(tag);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(&mut self.out, &value.to_string());
            self.out.push('"');
        }
        self.out.push('>');
        self
    }

    /// `</tag>`.
    pub(crate) fn close(&mut self, tag: &'static str) -> &mut Self {
        self.out.push_str("</");
        self.out.push_str(tag);
        self.out.push('>');
        self
    }

    /// `<tag class="class">text</tag>`; no attribute when `class` is empty.
    pub(crate) fn element(
        &mut self,
        tag: &'static str,
        class: &'static str,
        text: impl Display,
    ) -> &mut Self {
        if class.is_empty() {
            self.open(tag, &[]);
        } else {
            self.open(tag, &[("class", &class)]);
        }
        self.text(text).close(tag)
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // no browser shows them, some act on them
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            // overrides of writing direction make text lie about its order
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        let mut h = Html::default();
        h.open("p", &[("title", &"\"><script>")]).text("a<b & 'c'\u{0}\u{202e}").close("p");
        assert_eq!(
            h.finish(),
            "<p title=\"&quot;&gt;&lt;script&gt;\">a&lt;b &amp; &#39;c&#39;\u{fffd}\u{fffd}</p>"
        );
    }
}
