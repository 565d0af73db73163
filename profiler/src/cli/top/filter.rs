//! Which functions are shown: those that match what the user has typed.

use regex::{Regex, RegexBuilder};

use super::tally::Function;

/// Most characters that can be typed.
const LONGEST: usize = 200;

/// A regular expression as it is typed, in whatever case: before it is complete it is looked for as it stands.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    text: String,
    pattern: Option<Regex>,
    literal: bool,
}

impl Filter {
    /// What was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether what was typed is no regular expression.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// Whether everything is shown.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// One more character.
    pub fn push(&mut self, typed: char) {
        if !typed.is_control() && self.text.chars().count() < LONGEST {
            self.text.push(typed);
            self.compile();
        }
    }

    /// One character less.
    pub fn pop(&mut self) {
        self.text.pop();
        self.compile();
    }

    /// Whether a function is shown: its name, its place, or both as in `handle (app.lua:12)` match.
    pub fn shows(&self, function: &Function) -> bool {
        let Some(pattern) = &self.pattern else { return true };
        let Function { name, place, .. } = function;
        pattern.is_match(name) || pattern.is_match(place) || pattern.is_match(&format!("{name} ({place})"))
    }

    fn compile(&mut self) {
        let build = |text: &str| RegexBuilder::new(text).case_insensitive(true).build().ok();
        let typed = build(&self.text);
        self.literal = typed.is_none();
        self.pattern = typed.or_else(|| build(&regex::escape(&self.text)));
    }
}

#[cfg(test)]
mod tests {
    use luaflame::format::functions::Class;

    use super::*;

    fn shows(typed: &str, name: &str, place: &str) -> bool {
        let mut filter = Filter::default();
        typed.chars().for_each(|typed| filter.push(typed));
        filter.shows(&Function { name: name.into(), place: place.into(), class: Class::Lua })
    }

    #[test]
    fn a_name_a_place_or_both_match() {
        assert!(shows("", "handle", "app.lua:12"));
        assert!(shows("HAND", "handle", "app.lua:12"));
        assert!(shows("^handle$", "handle", "app.lua:12"));
        assert!(shows("^app", "handle", "app.lua:12"));
        assert!(shows(r"handle \(app", "handle", "app.lua:12"));
        assert!(!shows("other|more", "handle", "app.lua:12"));
    }

    #[test]
    fn what_is_no_regular_expression_is_looked_for_as_it_stands() {
        assert!(shows("f(", "f(x)", ""));
        assert!(!shows("g(", "f(x)", ""));
        assert!(shows("[C", "[c code]", ""));
    }

    #[test]
    fn what_was_typed_can_be_taken_back() {
        let mut filter = Filter::default();
        "a(\n\u{1b}".chars().for_each(|typed| filter.push(typed));
        assert_eq!((filter.text(), filter.is_literal()), ("a(", true));
        filter.pop();
        assert_eq!((filter.text(), filter.is_literal()), ("a", false));
        filter.pop();
        filter.pop();
        assert!(filter.is_empty());
        (0..1_000).for_each(|_| filter.push('é'));
        assert_eq!(filter.text().chars().count(), LONGEST);
    }
}
