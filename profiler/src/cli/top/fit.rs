//! Text in columns of a terminal: wide characters take two, combining ones none.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

/// Stands for what is cut off.
const CUT: &str = "..";

/// A text in exactly so many columns, cut at its end.
pub fn start(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return padded(text, columns);
    }
    let room = columns.saturating_sub(CUT.len());
    let end = text.char_indices().map(|(index, char)| index + char.len_utf8());
    let end = end.take_while(|end| text[..*end].width() <= room).last().unwrap_or(0);
    padded(&format!("{}{}", &text[..end], &CUT[..CUT.len().min(columns)]), columns)
}

/// A path in exactly so many columns, cut at its start, and in front of a folder if it can be: its end says most.
pub fn end(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return padded(text, columns);
    }
    let room = columns.saturating_sub(CUT.len());
    let start = text.char_indices().map(|(index, _)| index).find(|start| text[*start..].width() <= room);
    let rest = &text[start.unwrap_or(text.len())..];
    let rest = rest.find('/').map_or(rest, |slash| &rest[slash..]);
    padded(&format!("{}{rest}", &CUT[..CUT.len().min(columns)]), columns)
}

/// The name of a function in exactly so many columns. Of one without a name the offset in its module tells it apart.
pub fn name(text: &str, columns: usize) -> String {
    match text.rfind("+0x").map(|offset| text.split_at(offset)) {
        Some((module, offset)) if text.width() > columns && offset.width() + CUT.len() < columns => {
            format!("{}{offset}", start(module, columns - offset.width()))
        }
        _ => start(text, columns),
    }
}

fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(text.width())))
}

/// A number in at most six columns.
pub fn count(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// A share in percent in at most five columns, without the sign.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}", 100.0 * part as f64 / whole.max(1) as f64)
}

/// Hours, minutes and seconds.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_takes_the_columns_that_it_is_given() {
        assert_eq!(start("handle", 8), "handle  ");
        assert_eq!(start("handle", 5), "han..");
        assert_eq!(end("/srv/app.lua:12", 12), "..app.lua:12");
        assert_eq!(end("/srv/app.lua:12", 14), "../app.lua:12 ");
        assert_eq!(name("libluajit-5.1.so.2.1.0+0x5c9f0", 20), "libluajit-..+0x5c9f0");
        assert_eq!(name("nginx+0x5c9f0", 20), "nginx+0x5c9f0       ");
        assert_eq!(name("nginx+0x5c9f0", 9), "nginx+0..");
        assert_eq!(start("日本語日本", 7), "日本.. ");
        assert_eq!(end("日本語日本", 7), "..日本 ");
        assert_eq!(start("e\u{301}e\u{301}e\u{301}", 3), "e\u{301}e\u{301}e\u{301}");
        for text in ["", "a", "日本語", "🦀🦀🦀", "e\u{301}\u{301}x", "long enough to be cut", "日本語+0x12"]
        {
            for columns in 0..10 {
                assert_eq!(start(text, columns).width(), columns, "{text} {columns}");
                assert_eq!(end(text, columns).width(), columns, "{text} {columns}");
                assert_eq!(name(text, columns).width(), columns, "{text} {columns}");
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([count(999_999), count(1_250_000), count(3_000_000_000)], ["999999", "1.2M", "3.0G"]);
        assert_eq!([percent(1, 3), percent(5, 5), percent(0, 0)], ["33.3", "100.0", "0.0"]);
        assert_eq!(clock(Duration::from_secs(90_061)), "25:01:01");
    }
}
