//! Names of Lua functions as their source text defines them.
//!
//! LuaJIT keeps no function names, but a prototype knows the first and last line of its definition. The source is split
//! into tokens and each `function` matched with its `end`, so that a definition is found by both lines: a file that has
//! changed since it was loaded is hardly ever taken for the right one, and two functions that share both lines have no
//! name here.

use std::collections::HashMap;
use std::sync::Arc;

/// Source texts larger than this are not looked at: a token takes up to 32 times its bytes.
pub const MAX_SOURCE: usize = 2 << 20;
/// Deeper nesting than this is not Lua that LuaJIT could have compiled.
const MAX_DEPTH: usize = 1000;
/// Parts of a dotted name.
const MAX_PARTS: usize = 8;
/// Bytes of a name; a longer one is none.
const MAX_NAME: usize = 500;

/// Names by first and last line; `None` for a function without a name, and for lines that several functions share.
type Definitions = HashMap<(u32, u32), Option<Arc<str>>>;

/// The functions of one source text, by the first and last line of their definition.
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
        let names = self.definitions.values().flatten().map(|name| name.len());
        self.definitions.len() * 2 * size_of::<((u32, u32), Option<Arc<str>>)>() + names.sum::<usize>()
    }

    /// The name of the function that begins and ends at these lines: `a.b.c`, `a.b:c`, `f`.
    pub fn name(&self, first: u32, last: u32) -> Option<&Arc<str>> {
        self.definitions.get(&(first, last))?.as_ref()
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
    /// A function, with its first line and name.
    Function(u32, Option<Arc<str>>),
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
                let (name, first) = function(tokens, index, &open)?;
                let name = name.filter(|name| name.len() <= MAX_NAME);
                open.push(Open::Function(first.unwrap_or(line), name.map(Arc::from)));
            }
            Token::Word(b"do" | b"if") => open.push(Open::Block),
            Token::Word(b"repeat") => open.push(Open::Repeat),
            Token::Word(b"until") => matches!(open.pop()?, Open::Repeat).then_some(())?,
            Token::Word(b"end") => match open.pop()? {
                Open::Block => {}
                Open::Function(first, name) => {
                    found.entry((first, line)).and_modify(|name| *name = None).or_insert(name);
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

/// Name and first line of the function whose keyword is at `index`. The line is that of the keyword in a function
/// statement (`None`), and that of the opening parenthesis otherwise, as LuaJIT's parser counts.
fn function(tokens: &[(Token<'_>, u32)], index: usize, open: &[Open]) -> Option<(Option<String>, Option<u32>)> {
    let mut at = index + 1;
    let Token::Word(first) = tokens.get(at)?.0 else {
        return Some((assigned(tokens, index, open), Some(tokens.get(at)?.1)));
    };
    let mut name = text(first);
    for _ in 0..MAX_PARTS {
        at += 1;
        let Token::Mark(separator @ (b'.' | b':')) = tokens.get(at)?.0 else { break };
        at += 1;
        let Token::Word(part) = tokens.get(at)?.0 else { return Some((None, None)) };
        name.push(separator as char);
        name.push_str(&text(part));
    }
    let local = index > 0 && tokens[index - 1].0 == Token::Word(b"local");
    Some((Some(name), if local { Some(tokens.get(at)?.1) } else { None }))
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

    fn name(source: &str, first: u32, last: u32) -> Option<String> {
        SourceIndex::new(source.as_bytes()).name(first, last).map(|name| name.to_string())
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
