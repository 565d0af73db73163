//! The figures as text.

use std::fmt;

/// The middle of the values, or NaN when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// Rows of cells under headings, aligned.
pub struct Table<const N: usize> {
    headings: [String; N],
    rows: Vec<(String, [String; N])>,
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub fn new(headings: [String; N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: String, cells: [String; N]) {
        self.rows.push((name, cells));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let heading = (String::new(), self.headings.clone());
        for (name, cells) in std::iter::once(&heading).chain(&self.rows) {
            write!(f, "{name:width$}")?;
            for cell in cells {
                write!(f, "  {cell:>11}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Figures held against their targets.
pub struct Verdicts(Vec<(String, f64, &'static str, f64, &'static str)>);

impl Verdicts {
    /// None yet.
    pub fn new() -> Verdicts {
        Verdicts(Vec::new())
    }

    /// A figure that should not be larger than its target.
    pub fn at_most(&mut self, name: &str, value: f64, target: f64, unit: &'static str) {
        self.0.push((name.to_owned(), value, "<=", target, unit));
    }

    /// A figure that should not be smaller than its target.
    pub fn at_least(&mut self, name: &str, value: f64, target: f64, unit: &'static str) {
        self.0.push((name.to_owned(), value, ">=", target, unit));
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value, relation, target, unit) in &self.0 {
            let met = if *relation == "<=" { value <= target } else { value >= target };
            let verdict = if met { "met" } else { "MISSED" };
            writeln!(f, "  {name:40} {value:>8.3} {unit:12} target {relation} {target:<6} {verdict}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_that_was_not_measured_meets_no_target() {
        let mut verdicts = Verdicts::new();
        verdicts.at_most("a", f64::NAN, 1.0, "ms");
        verdicts.at_least("b", f64::NAN, 1.0, "ms");
        verdicts.at_most("c", 1.0, 1.0, "ms");
        let text = verdicts.to_string();
        assert_eq!(text.matches("MISSED").count(), 2, "{text}");
        assert_eq!(text.matches("met\n").count(), 1, "{text}");
    }
}
