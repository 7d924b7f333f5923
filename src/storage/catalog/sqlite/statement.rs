//! A statement that grows: its text and, in the order of their question marks, the values that it binds.

use rusqlite::types::Value;

#[derive(Debug, Default)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
}

impl Statement {
    pub(super) fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn value(&mut self, value: impl Into<Value>) {
        self.text.push('?');
        self.values.push(value.into());
    }

    /// ` AND text ?`.
    pub(super) fn and(&mut self, text: &str, value: impl Into<Value>) {
        self.text.push_str(" AND ");
        self.text.push_str(text);
        self.text.push(' ');
        self.value(value);
    }

    /// `(?, ?, …)`.
    pub(super) fn list(&mut self, values: impl IntoIterator<Item = String>) {
        for (position, value) in values.into_iter().enumerate() {
            self.text.push_str(if position == 0 { "(" } else { ", " });
            self.value(value);
        }
        self.text.push(')');
    }
}
