//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::ledger::Ledger;
use super::picture::{Choices, Picture, Sort};

/// What the user has chosen, and what is on the screen beside the picture.
#[derive(Debug, Default)]
pub struct Session {
    pub choices: Choices,
    /// What had been counted when the picture was frozen.
    pub frozen: Option<Ledger>,
    /// The filter is being typed.
    pub typing: bool,
    /// The help covers the picture.
    pub help: bool,
    /// No process is left to sample.
    pub ended: bool,
    /// Rows of functions above the first one that is seen.
    pub scrolled: usize,
    /// Rows of functions that fit the screen.
    pub page: usize,
}

/// What a key asks for beyond another look at the same counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Quit,
    /// To freeze the picture, or to have it move again.
    Pause,
    /// To begin counting anew.
    Reset,
}

impl Session {
    /// Takes in a key, pressed at the sight of this picture.
    pub fn key(&mut self, key: KeyEvent, picture: &Picture) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Wish::Quit,
                KeyCode::Char('u') if self.typing => self.choices.filter = Default::default(),
                _ => {}
            }
            return Wish::Nothing;
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Nothing };
        }
        if self.typing {
            self.typed(key.code);
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('p' | ' ') => return Wish::Pause,
            KeyCode::Char('r') => return Wish::Reset,
            KeyCode::Char('s') => self.choices.sort = Sort::Own,
            KeyCode::Char('t') => self.choices.sort = Sort::Total,
            KeyCode::Char('n') => self.choices.sort = Sort::Name,
            KeyCode::Left | KeyCode::Right => self.choices.sort = beside(self.choices.sort, key.code),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.choices.filter = Default::default(),
            KeyCode::Char('l') => self.choices.lua_only = !self.choices.lua_only,
            KeyCode::Char('w') => self.choices.whole = !self.choices.whole,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Tab => self.choose(picture, 1),
            KeyCode::BackTab => self.choose(picture, -1),
            KeyCode::Char('0') => self.choices.process = None,
            KeyCode::Char(digit @ '1'..='9') => {
                let mut pids = picture.processes.iter().filter_map(|row| row.pid);
                // Where there is nothing of that number, nothing changes.
                let pid = digit.to_digit(10).and_then(|number| pids.nth(number as usize - 1));
                self.choices.process = pid.or(self.choices.process);
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(picture, -1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(picture, 1),
            KeyCode::PageUp => self.scroll(picture, -(self.page as isize)),
            KeyCode::PageDown => self.scroll(picture, self.page as isize),
            KeyCode::Home => self.scrolled = 0,
            KeyCode::End => self.scroll(picture, isize::MAX),
            _ => {}
        }
        Wish::Nothing
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(typed) => self.choices.filter.push(typed),
            KeyCode::Backspace => self.choices.filter.pop(),
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => (self.typing, self.choices.filter) = (false, Default::default()),
            _ => {}
        }
        self.scrolled = 0;
    }

    /// Goes on to the next process, or back: behind the last one are all of them.
    fn choose(&mut self, picture: &Picture, step: isize) {
        let mut choices = vec![None];
        choices.extend(picture.processes.iter().filter_map(|row| row.pid).map(Some));
        let now = choices.iter().position(|pid| *pid == self.choices.process).unwrap_or(0);
        let next = now.checked_add_signed(step).unwrap_or(choices.len() - 1);
        self.choices.process = choices.get(next).copied().flatten();
    }

    fn scroll(&mut self, picture: &Picture, rows: isize) {
        self.scrolled = self.scrolled.saturating_add_signed(rows);
        self.stay_within(picture.rows.len());
    }

    /// Scrolls back to where there are rows.
    pub fn stay_within(&mut self, rows: usize) {
        self.scrolled = self.scrolled.min(rows.saturating_sub(self.page));
    }
}

fn beside(sort: Sort, key: KeyCode) -> Sort {
    match (sort, key) {
        (Sort::Own, KeyCode::Left) | (Sort::Total, KeyCode::Right) => Sort::Name,
        (Sort::Own, _) | (Sort::Name, KeyCode::Left) => Sort::Total,
        (Sort::Total, _) | (Sort::Name, _) => Sort::Own,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::picture::{ProcessRow, Row};
    use super::super::tally::{Counts, Function, Samples};
    use super::*;
    use luaflame::format::functions::Class;

    fn picture(pids: &[u32], functions: usize) -> Picture {
        let process = |pid| ProcessRow { pid, name: String::new(), samples: Samples::default(), ended: false };
        let function = Function { name: "f".into(), place: "".into(), class: Class::Lua };
        let row = Row { function, counts: Counts::default(), own: 0 };
        Picture {
            running: Duration::ZERO,
            samples: 0,
            lost: 0,
            time: Duration::ZERO,
            chosen: Samples::default(),
            processes: [None].into_iter().chain(pids.iter().copied().map(Some)).map(process).collect(),
            rows: vec![row; functions],
            functions,
            dropped: false,
        }
    }

    fn press(session: &mut Session, code: KeyCode) -> Wish {
        session.key(KeyEvent::new(code, KeyModifiers::NONE), &picture(&[7, 8], 50))
    }

    fn types(session: &mut Session, text: &str) {
        text.chars().for_each(|char| assert_eq!(press(session, KeyCode::Char(char)), Wish::Nothing, "{char}"));
    }

    #[test]
    fn keys_mean_letters_while_a_filter_is_typed() {
        let mut session = Session::default();
        types(&mut session, "/qpr 1");
        assert_eq!(session.choices.filter.text(), "qpr 1");
        press(&mut session, KeyCode::Backspace);
        press(&mut session, KeyCode::Enter);
        assert_eq!((session.choices.filter.text(), session.typing), ("qpr ", false));
        types(&mut session, "/x");
        assert_eq!(session.choices.filter.text(), "qpr x");
        press(&mut session, KeyCode::Esc);
        assert!(session.choices.filter.is_empty() && !session.typing);
        types(&mut session, "/f");
        press(&mut session, KeyCode::Enter);
        press(&mut session, KeyCode::Esc);
        assert!(session.choices.filter.is_empty());
        assert_eq!(press(&mut session, KeyCode::Char('q')), Wish::Quit);
    }

    #[test]
    fn control_c_quits_whatever_is_on_the_screen() {
        for (typing, help) in [(false, false), (true, false), (false, true)] {
            let mut session = Session { typing, help, ..Session::default() };
            let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
            assert_eq!(session.key(key, &picture(&[], 0)), Wish::Quit);
        }
    }

    #[test]
    fn processes_are_chosen_in_turn_or_by_number() {
        let mut session = Session::default();
        for chosen in [Some(7), Some(8), None, Some(7)] {
            press(&mut session, KeyCode::Tab);
            assert_eq!(session.choices.process, chosen);
        }
        for chosen in [None, Some(8)] {
            press(&mut session, KeyCode::BackTab);
            assert_eq!(session.choices.process, chosen);
        }
        for (digit, chosen) in [('1', Some(7)), ('9', Some(7)), ('2', Some(8)), ('0', None)] {
            press(&mut session, KeyCode::Char(digit));
            assert_eq!(session.choices.process, chosen, "{digit}");
        }
    }

    #[test]
    fn columns_are_sorted_by_their_letters_or_in_turn() {
        let mut session = Session::default();
        for (key, sort) in [
            (KeyCode::Char('t'), Sort::Total),
            (KeyCode::Char('n'), Sort::Name),
            (KeyCode::Char('s'), Sort::Own),
            (KeyCode::Right, Sort::Total),
            (KeyCode::Right, Sort::Name),
            (KeyCode::Right, Sort::Own),
            (KeyCode::Left, Sort::Name),
            (KeyCode::Left, Sort::Total),
            (KeyCode::Left, Sort::Own),
        ] {
            press(&mut session, key);
            assert_eq!(session.choices.sort, sort, "{key:?}");
        }
    }

    #[test]
    fn scrolling_ends_where_the_functions_do() {
        let mut session = Session { page: 10, ..Session::default() };
        let codes = [KeyCode::Up, KeyCode::Down, KeyCode::PageDown, KeyCode::End, KeyCode::PageDown, KeyCode::PageUp];
        for (code, scrolled) in codes.into_iter().zip([0, 1, 11, 40, 40, 30]) {
            press(&mut session, code);
            assert_eq!(session.scrolled, scrolled, "{code:?}");
        }
        session.stay_within(3);
        assert_eq!(session.scrolled, 0);
    }

    #[test]
    fn any_key_leaves_the_help() {
        let mut session = Session::default();
        press(&mut session, KeyCode::Char('?'));
        assert!(session.help);
        assert_eq!(press(&mut session, KeyCode::Char('r')), Wish::Nothing);
        assert!(!session.help);
    }
}
