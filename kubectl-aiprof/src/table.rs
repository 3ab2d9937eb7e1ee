//! Tables of text that fit a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The widest line, in columns.
pub(crate) const WIDTH: usize = 100;
/// Between two columns.
const GAP: &str = "  ";

/// To which side a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table: its last column is cut where the line would be too long.
#[derive(Debug)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
    indent: usize,
    width: usize,
}

impl Table {
    /// A table with its headings.
    pub(crate) fn new(indent: usize, columns: &[(Align, &str)]) -> Self {
        let (aligns, headings) = columns.iter().map(|&(align, heading)| (align, heading.to_owned())).unzip();
        Self { aligns, rows: vec![headings], indent, width: WIDTH }
    }

    /// The same, whose lines are as long as they are.
    pub(crate) fn uncut(self) -> Self {
        Self { width: usize::MAX, ..self }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Its lines, each with its end.
    pub(crate) fn render(&self) -> String {
        let columns = self.aligns.len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (column, cell) in row.iter().enumerate() {
                let last = column + 1 == columns;
                if column > 0 {
                    line.push_str(GAP);
                }
                let cell = if last { cut(cell, self.width.saturating_sub(line.width())) } else { cell.clone() };
                let room = " ".repeat(widths[column].saturating_sub(cell.width()));
                match self.aligns[column] {
                    Align::Right => line.push_str(&(room + &cell)),
                    Align::Left => line.push_str(&(cell + &room)),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text of at most `width` columns, with a mark where it was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for char in text.chars() {
        used += char.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(char);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_are_bounded() {
        let mut table = Table::new(2, &[(Align::Right, "SELF"), (Align::Left, "FUNCTION")]);
        table.row(["1.2 s".to_owned(), "f".to_owned()]);
        table.row(["11.25 s".to_owned(), "界".repeat(200)]);
        let text = table.render();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "     SELF  FUNCTION");
        assert_eq!(lines[1], "    1.2 s  f");
        assert!(lines[2].ends_with('…') && lines[2].width() <= WIDTH, "{}", lines[2]);
    }
}
