//! Names of Lua functions as their source text defines them.
//!
//! LuaJIT keeps no function names, but a prototype knows the first and last line of its definition. The source is split
//! into tokens and each `function` matched with its `end`, so that a definition is found by both lines and by its
//! parameters. Functions that share all of these cannot be told apart here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Source texts larger than this are not looked at: a token takes up to 32 times its bytes.
pub const MAX_SOURCE: usize = 2 << 20;
/// Deeper nesting than this is not Lua that LuaJIT could have compiled.
const MAX_DEPTH: usize = 1000;
/// Parts of a dotted name.
const MAX_PARTS: usize = 8;
/// Bytes of a name; a longer one is none.
const MAX_NAME: usize = 500;

/// What recognises a function in its source text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Definition {
    /// Line that LuaJIT's parser counts as the first.
    pub first: u32,
    /// Line of its `end`.
    pub last: u32,
    /// Its parameters, with `self` of a method.
    pub parameters: Parameters,
}

/// The parameters of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Parameters {
    /// Hash of the names, in order.
    names: u64,
    /// Whether any number of arguments may follow.
    pub variadic: bool,
}

impl Parameters {
    /// Adds a parameter.
    pub fn push(&mut self, name: &[u8]) {
        // FNV-1a, each name with a byte that is in none.
        for byte in name.iter().chain(&[0]) {
            self.names = (self.names ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What a source text says of the name of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// It is defined under this name.
    As(Arc<str>),
    /// It is defined without a name.
    Nothing,
    /// Several functions look alike.
    Ambiguous,
}

type Definitions = HashMap<Definition, Named>;

/// The functions of one source text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceIndex {
    definitions: Definitions,
}

impl SourceIndex {
    /// Finds the functions in a source text. Text that is not well-formed Lua has none: half of it could be anything.
    pub fn new(source: &[u8]) -> SourceIndex {
        if source.len() > MAX_SOURCE {
            return SourceIndex::default();
        }
        SourceIndex { definitions: definitions(&tokens(source)).unwrap_or_default() }
    }

    /// Bytes of memory that it takes, roughly.
    pub fn size(&self) -> usize {
        let names = self.definitions.values().map(|name| if let Named::As(name) = name { name.len() } else { 0 });
        self.definitions.len() * 2 * size_of::<(Definition, Named)>() + names.sum::<usize>()
    }

    /// The name of a function: `a.b.c`, `a.b:c`, `f`. `None` when the text has no such function.
    pub fn name(&self, definition: &Definition) -> Option<&Named> {
        self.definitions.get(definition)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// An identifier or keyword.
    Word(&'a [u8]),
    /// A short string without escapes.
    String(&'a [u8]),
    /// One character of punctuation; `E` stands for a comparison, `.` only for a single dot.
    Mark(u8),
    /// A number, another string, or anything else.
    Other,
}

/// What is open at a token.
enum Open {
    /// A function, with its first line, its parameters and its name.
    Function(u32, Parameters, Option<String>),
    /// `do` or `if`, ended by `end`.
    Block,
    /// `repeat`, ended by `until`.
    Repeat,
    /// A bracket, ended by this character.
    Bracket(u8),
    /// A table constructor, with the name of what it is assigned to.
    Table(Option<String>),
}

fn definitions(tokens: &[(Token<'_>, u32)]) -> Option<Definitions> {
    let mut found = Definitions::new();
    let mut open: Vec<Open> = Vec::new();
    for (index, &(token, line)) in tokens.iter().enumerate() {
        match token {
            Token::Word(b"function") => {
                let Head { name, first, parameters } = function(tokens, index, &open)?;
                let name = name.filter(|name| name.len() <= MAX_NAME);
                open.push(Open::Function(first.unwrap_or(line), parameters, name));
            }
            Token::Word(b"do" | b"if") => open.push(Open::Block),
            Token::Word(b"repeat") => open.push(Open::Repeat),
            Token::Word(b"until") => matches!(open.pop()?, Open::Repeat).then_some(())?,
            Token::Word(b"end") => match open.pop()? {
                Open::Block => {}
                Open::Function(first, parameters, name) => {
                    match found.entry(Definition { first, last: line, parameters }) {
                        Entry::Occupied(mut other) => drop(other.insert(Named::Ambiguous)),
                        Entry::Vacant(new) => {
                            new.insert(name.map_or(Named::Nothing, |name| Named::As(name.into())));
                        }
                    }
                }
                _ => return None,
            },
            Token::Mark(b'(') => open.push(Open::Bracket(b')')),
            Token::Mark(b'[') => open.push(Open::Bracket(b']')),
            Token::Mark(b'{') => {
                // A name that is too long makes names that are too long.
                let name = assigned(tokens, index, &open);
                open.push(Open::Table(name.map(|name| name[..name.floor_char_boundary(MAX_NAME + 1)].to_owned())));
            }
            Token::Mark(close @ (b')' | b']')) => {
                matches!(open.pop()?, Open::Bracket(expected) if expected == close).then_some(())?;
            }
            Token::Mark(b'}') => matches!(open.pop()?, Open::Table(_)).then_some(())?,
            _ => {}
        }
        if open.len() > MAX_DEPTH {
            return None;
        }
    }
    open.is_empty().then_some(found)
}

/// The head of a function.
struct Head {
    name: Option<String>,
    /// The line of the opening parenthesis, as LuaJIT's parser counts; `None` in a function statement, where it is that of
    /// the keyword.
    first: Option<u32>,
    parameters: Parameters,
}

/// The head of the function whose keyword is at `index`.
fn function(tokens: &[(Token<'_>, u32)], index: usize, open: &[Open]) -> Option<Head> {
    let mut at = index + 1;
    let mut parameters = Parameters::default();
    let (name, first) = if let Token::Word(word) = tokens.get(at)?.0 {
        let mut name = Some(text(word));
        let mut parts = 1;
        at += 1;
        while let Token::Mark(separator @ (b'.' | b':')) = tokens.get(at)?.0 {
            let Token::Word(part) = tokens.get(at + 1)?.0 else { return None };
            parts += 1;
            name = name.filter(|_| parts <= MAX_PARTS).map(|name| format!("{name}{}{}", separator as char, text(part)));
            if separator == b':' {
                parameters.push(b"self");
            }
            at += 2;
        }
        let local = index > 0 && tokens[index - 1].0 == Token::Word(b"local");
        (name, if local { Some(tokens.get(at)?.1) } else { None })
    } else {
        (assigned(tokens, index, open), Some(tokens.get(at)?.1))
    };
    (tokens.get(at)?.0 == Token::Mark(b'(')).then_some(())?;
    for (token, _) in tokens.get(at + 1..)? {
        match token {
            Token::Word(name) => parameters.push(name),
            Token::Mark(b',') => {}
            Token::Other => parameters.variadic = true,
            _ => break,
        }
    }
    Some(Head { name, first, parameters })
}

/// The name of what the value that begins at `index` is assigned to: a variable, a field, an entry of a table
/// constructor. Only when it is the first value of the assignment and the first target.
fn assigned(tokens: &[(Token<'_>, u32)], index: usize, open: &[Open]) -> Option<String> {
    let token = |back: usize| index.checked_sub(back).map(|at| tokens[at].0);
    (token(1)? == Token::Mark(b'=')).then_some(())?;
    let mut parts: Vec<String> = Vec::new();
    let mut back = 2;
    while parts.len() < MAX_PARTS {
        match token(back) {
            Some(Token::Word(word)) if !is_keyword(word) => {
                parts.push(text(word));
                back += 1;
                match token(back) {
                    Some(Token::Mark(b'.')) => back += 1,
                    _ => break,
                }
            }
            Some(Token::Mark(b']')) => {
                let Some(Token::String(key)) = token(back + 1) else { break };
                (token(back + 2)? == Token::Mark(b'[')).then_some(())?;
                parts.push(text(key));
                back += 3;
                // `a["k"] = ` goes on with its table, `{ ["k"] = ` does not.
                match token(back) {
                    Some(Token::Word(word)) if !is_keyword(word) => {}
                    Some(Token::Mark(b']')) => {}
                    _ => break,
                }
            }
            _ => break,
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.reverse();
    let name = parts.join(".");
    match open.last() {
        Some(Open::Table(Some(table))) => Some(format!("{table}.{name}")),
        Some(Open::Table(None)) => Some(name),
        // In `a, b = function...` the first value belongs to `a`.
        _ => (token(back) != Some(Token::Mark(b','))).then_some(name),
    }
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

fn is_keyword(word: &[u8]) -> bool {
    matches!(
        word,
        b"and"
            | b"break"
            | b"do"
            | b"else"
            | b"elseif"
            | b"end"
            | b"false"
            | b"for"
            | b"function"
            | b"goto"
            | b"if"
            | b"in"
            | b"local"
            | b"nil"
            | b"not"
            | b"or"
            | b"repeat"
            | b"return"
            | b"then"
            | b"true"
            | b"until"
            | b"while"
    )
}

/// Splits a source text into tokens, each with its line.
fn tokens(source: &[u8]) -> Vec<(Token<'_>, u32)> {
    let mut tokens = Vec::new();
    let mut lexer = Lexer { rest: source, line: 1 };
    if let Some(rest) = source.strip_prefix(b"\xef\xbb\xbf") {
        lexer.rest = rest;
    }
    if lexer.rest.first() == Some(&b'#') {
        lexer.skip_line();
    }
    while let Some(&byte) = lexer.rest.first() {
        match byte {
            b'\n' | b'\r' => lexer.end_of_line(),
            b' ' | b'\t' | 0x0b | 0x0c => lexer.skip(1),
            b'-' if lexer.rest.get(1) == Some(&b'-') => {
                lexer.skip(2);
                if !lexer.long_bracket() {
                    lexer.skip_line();
                }
            }
            b'[' if lexer.long_bracket() => tokens.push((Token::Other, lexer.line)),
            b'"' | b'\'' => {
                let string = lexer.string(byte);
                tokens.push((string, lexer.line));
            }
            b'0'..=b'9' => {
                let length = lexer.rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.');
                let length = length.count();
                lexer.skip(length);
                tokens.push((Token::Other, lexer.line));
            }
            _ if is_word(byte) => {
                let length = lexer.rest.iter().take_while(|byte| is_word(**byte) || byte.is_ascii_digit()).count();
                tokens.push((Token::Word(&lexer.rest[..length]), lexer.line));
                lexer.skip(length);
            }
            b'=' | b'~' | b'<' | b'>' if lexer.rest.get(1) == Some(&b'=') => {
                tokens.push((Token::Mark(b'E'), lexer.line));
                lexer.skip(2);
            }
            b'.' | b':' => {
                let length = lexer.rest.iter().take_while(|next| **next == byte).count();
                tokens.push((if length == 1 { Token::Mark(byte) } else { Token::Other }, lexer.line));
                lexer.skip(length);
            }
            _ => {
                tokens.push((Token::Mark(byte), lexer.line));
                lexer.skip(1);
            }
        }
    }
    tokens
}

/// LuaJIT takes every byte from 128 on as a letter.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

struct Lexer<'a> {
    rest: &'a [u8],
    line: u32,
}

impl<'a> Lexer<'a> {
    fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }

    /// Skips one end of line: `\n`, `\r`, `\r\n` or `\n\r`.
    fn end_of_line(&mut self) {
        let pair = matches!(self.rest, [b'\n', b'\r', ..] | [b'\r', b'\n', ..]);
        self.skip(if pair { 2 } else { 1 });
        self.line = self.line.saturating_add(1);
    }

    fn skip_line(&mut self) {
        let length = self.rest.iter().take_while(|byte| !matches!(byte, b'\n' | b'\r')).count();
        self.skip(length);
    }

    /// Skips a long string or comment, `[==[ ... ]==]`, when one begins here.
    fn long_bracket(&mut self) -> bool {
        let Some((b'[', rest)) = self.rest.split_first() else { return false };
        let level = rest.iter().take_while(|byte| **byte == b'=').count();
        if rest.get(level) != Some(&b'[') {
            return false;
        }
        self.skip(level + 2);
        while let Some(&byte) = self.rest.first() {
            match byte {
                b'\n' | b'\r' => self.end_of_line(),
                b']' => {
                    let rest = &self.rest[1..];
                    let closes = rest.len() > level && rest[..level].iter().all(|byte| *byte == b'=');
                    if closes && rest[level] == b']' {
                        self.skip(level + 2);
                        return true;
                    }
                    self.skip(1);
                }
                _ => self.skip(1),
            }
        }
        true
    }

    /// Takes a short string.
    fn string(&mut self, quote: u8) -> Token<'a> {
        self.skip(1);
        let start = self.rest;
        let mut plain = true;
        while let Some(&byte) = self.rest.first() {
            match byte {
                b'\\' => {
                    plain = false;
                    self.skip(1);
                    match self.rest.first() {
                        Some(b'\n' | b'\r') => self.end_of_line(),
                        _ => self.skip(1),
                    }
                }
                b'\n' | b'\r' => {
                    plain = false;
                    self.end_of_line();
                }
                _ if byte == quote => {
                    let length = start.len() - self.rest.len();
                    self.skip(1);
                    return if plain { Token::String(&start[..length]) } else { Token::Other };
                }
                _ => self.skip(1),
            }
        }
        Token::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(names: &[&str], variadic: bool) -> Parameters {
        let mut parameters = Parameters { variadic, ..Parameters::default() };
        names.iter().for_each(|name| parameters.push(name.as_bytes()));
        parameters
    }

    /// The name of the only function at these lines.
    fn name(source: &str, first: u32, last: u32) -> Option<String> {
        let index = SourceIndex::new(source.as_bytes());
        let mut at = index.definitions.iter().filter(|(at, _)| (at.first, at.last) == (first, last));
        match (at.next()?.1, at.next()) {
            (Named::As(name), None) => Some(name.to_string()),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_a_definition() {
        let cases = [
            ("function f() end", "f"),
            ("function a.b.c(x) end", "a.b.c"),
            ("function a.b:c(x) end", "a.b:c"),
            ("local function f() end", "f"),
            ("x = function() end", "x"),
            ("local x = function() end", "x"),
            ("a.b.x = function() end", "a.b.x"),
            ("a.b['x'] = function() end", "a.b.x"),
            ("M = { k = function() end }", "M.k"),
            ("M = { 1, [\"k\"] = function() end }", "M.k"),
            ("local M = { N = { k = function() end } }", "M.N.k"),
            ("return { k = function() end }", "k"),
            ("setmetatable({}, { __index = function() end })", "__index"),
            ("x = x == nil local y = function() end", "y"),
        ];
        for (source, expected) in cases {
            assert_eq!(name(source, 1, 1).as_deref(), Some(expected), "{source}");
        }
    }

    #[test]
    fn no_name_is_better_than_a_wrong_one() {
        let cases = [
            "f(function() end)",
            "return function() end",
            "local a, b = function() end",
            "a, b = 1, function() end",
            "x = y or function() end",
            "x = y == function() end",
            // Two functions in one line.
            "f = function() end g = function() end",
            "function f() return function() end end",
            // Not Lua, or not whole.
            "function f( end end",
            "local function f() if x then end",
        ];
        for source in cases {
            assert_eq!(name(source, 1, 1), None, "{source}");
        }
    }

    #[test]
    fn functions_in_one_line_are_told_apart_by_their_parameters() {
        let source = "local function f(a, b) end function M:g(...) end local h = function(self) end k(function() end)";
        let index = SourceIndex::new(source.as_bytes());
        let name = |parameters| index.name(&Definition { first: 1, last: 1, parameters });
        let named = |name: &str| Named::As(name.into());
        assert_eq!(name(parameters(&["a", "b"], false)), Some(&named("f")));
        assert_eq!(name(parameters(&["self"], true)), Some(&named("M:g")));
        assert_eq!(name(parameters(&["self"], false)), Some(&named("h")));
        assert_eq!(name(parameters(&[], false)), Some(&Named::Nothing));
        assert_eq!(name(parameters(&["ab"], false)), None);
        let alike = SourceIndex::new(b"f = function(a) end g = function(a) end");
        let definition = Definition { first: 1, last: 1, parameters: parameters(&["a"], false) };
        assert_eq!(alike.name(&definition), Some(&Named::Ambiguous));
    }

    #[test]
    fn both_lines_must_agree() {
        let source = "-- [[ function no() end\nlocal function outer()\n  local inner = function()\n  end\nend\n";
        assert_eq!(name(source, 2, 5).as_deref(), Some("outer"));
        assert_eq!(name(source, 3, 4).as_deref(), Some("inner"));
        assert_eq!(name(source, 2, 4), None, "the file has changed since it was loaded");
        assert_eq!(name(source, 1, 1), None, "a comment");
    }

    #[test]
    fn strings_comments_and_line_ends_are_counted_as_luajit_does() {
        let source = "#!/usr/bin/luajit\r\nlocal s = [==[\nfunction x() end ]]\n]==] --[[ two\nlines ]] s = 'it\\'s \\\nfunction'\nrepeat local z = ... .. '' until x ~= 1\nfunction f()\nend";
        assert_eq!(name(source, 8, 9).as_deref(), Some("f"));
    }

    #[test]
    fn the_first_line_is_that_of_luajits_parser() {
        assert_eq!(name("local x =\nfunction\n()\nend", 3, 4).as_deref(), Some("x"));
        assert_eq!(name("local function f\n()\nend", 2, 3).as_deref(), Some("f"));
        assert_eq!(name("function f\n()\nend", 1, 3).as_deref(), Some("f"));
    }
}
