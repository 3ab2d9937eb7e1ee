//! Line tables: from a place in the bytecode to a line of the source, in the three encodings of 3.8 to 3.14.

/// How a version encodes its line table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `co_lnotab` of 3.8 and 3.9: pairs of address and line steps.
    Lnotab,
    /// `co_linetable` of 3.10 (PEP 626): pairs of range length and line step.
    Ranges,
    /// `co_linetable` from 3.11 on (PEP 657): location entries.
    Locations,
}

/// A decoded line table, from byte offsets in the bytecode to lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineTable {
    format: LineFormat,
    first_line: u32,
    /// From which byte on which line holds, ascending; 0 is no line.
    starts: Box<[(u32, u32)]>,
}

impl LineTable {
    /// Decodes `table` of a code object that starts on `first_line`. A torn table gives what it says up to the tear.
    #[must_use]
    pub fn decode(format: LineFormat, table: &[u8], first_line: u32) -> Self {
        let mut builder = Builder { starts: Vec::new(), line: first_line.into() };
        match format {
            LineFormat::Lnotab => builder.lnotab(table),
            LineFormat::Ranges => builder.ranges(table),
            LineFormat::Locations => builder.locations(table),
        }
        Self { format, first_line, starts: builder.starts.into_boxed_slice() }
    }

    /// The line of a frame whose [`instruction`](aiprof_ebpf_types::PythonFrame::instruction) this is; `None` where
    /// the compiler gave the instruction no line.
    #[must_use]
    pub fn line(&self, instruction: i32) -> Option<u32> {
        let Ok(instruction) = u32::try_from(instruction) else {
            // Not yet at the first instruction.
            return Some(self.first_line);
        };
        let byte = if self.format == LineFormat::Ranges { instruction.saturating_mul(2) } else { instruction };
        let behind = self.starts.partition_point(|(start, _)| *start <= byte);
        let line = match behind.checked_sub(1) {
            Some(index) => self.starts[index].1,
            // Before the first entry, or an empty table: up to 3.9 the first line holds.
            None if self.format == LineFormat::Lnotab => self.first_line,
            None => 0,
        };
        (line != 0).then_some(line)
    }

    /// Memory that the table takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.starts)
    }
}

struct Builder {
    starts: Vec<(u32, u32)>,
    /// The running line; `i64`, since steps of a torn table may lead anywhere.
    line: i64,
}

impl Builder {
    fn push(&mut self, start: u32, line: Option<i64>) {
        let line = line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
        match self.starts.last_mut() {
            Some(last) if last.1 == line => {}
            Some(last) if last.0 == start => last.1 = line,
            _ => self.starts.push((start, line)),
        }
    }

    fn lnotab(&mut self, table: &[u8]) {
        let mut start = 0_u32;
        for [step, line_step] in table.as_chunks().0 {
            start = start.saturating_add((*step).into());
            self.line += i64::from(line_step.cast_signed());
            self.push(start, Some(self.line));
        }
    }

    fn ranges(&mut self, table: &[u8]) {
        let mut start = 0_u32;
        for [length, line_step] in table.as_chunks().0 {
            let line = match line_step.cast_signed() {
                -128 => None,
                step => {
                    self.line += i64::from(step);
                    Some(self.line)
                }
            };
            if *length > 0 {
                self.push(start, line);
                start = start.saturating_add((*length).into());
            }
        }
        self.push(start, None);
    }

    fn locations(&mut self, table: &[u8]) {
        let mut start = 0_u32;
        let mut bytes = table.iter().copied();
        // Each entry's first byte has bit 7 set, then 4 bits of kind and 3 of its length in code units, less one.
        while let Some(head) = bytes.next() {
            let Ok(line) = self.location(head, &mut bytes) else {
                break;
            };
            self.push(start, line);
            start = start.saturating_add((u32::from(head & 7) + 1) * 2);
        }
        self.push(start, None);
    }

    /// The rest of one entry: its line, if it has one.
    fn location(&mut self, head: u8, bytes: &mut impl Iterator<Item = u8>) -> Result<Option<i64>, Torn> {
        if head & 0x80 == 0 {
            return Err(Torn);
        }
        let columns = match head >> 3 & 15 {
            // No location; the running line stays for the entries to come.
            15 => return Ok(None),
            14 => {
                self.line = self.line.saturating_add(signed_varint(bytes)?);
                for _end_line_and_columns in 0..3 {
                    varint(bytes)?;
                }
                0
            }
            13 => {
                self.line = self.line.saturating_add(signed_varint(bytes)?);
                0
            }
            kind @ 10..=12 => {
                self.line = self.line.saturating_add(i64::from(kind - 10));
                2
            }
            _ => 1,
        };
        for _column in 0..columns {
            bytes.next().ok_or(Torn)?;
        }
        Ok(Some(self.line))
    }
}

/// A table ended or went wrong within an entry.
struct Torn;

/// 6 bits a byte, lowest first; bit 6 tells that more follow.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> Result<u64, Torn> {
    let mut value = 0_u64;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next().ok_or(Torn)?;
        value |= u64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            return Ok(value);
        }
    }
    Err(Torn)
}

fn signed_varint(bytes: &mut impl Iterator<Item = u8>) -> Result<i64, Torn> {
    let value = varint(bytes)?;
    let magnitude = (value >> 1) as i64;
    Ok(if value & 1 == 1 { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(format: LineFormat, table: &[u8], instructions: &[i32]) -> Vec<Option<u32>> {
        let table = LineTable::decode(format, table, 10);
        instructions.iter().map(|instruction| table.line(*instruction)).collect()
    }

    #[test]
    fn lnotab_steps_forth_and_back() {
        let table = [0, 1, 4, 2, 2, 0xff, 255, 0, 1, 3];
        let expected = [11, 11, 13, 12, 12, 15].map(Some);
        assert_eq!(lines(LineFormat::Lnotab, &table, &[0, 2, 4, 6, 200, 262]), expected);
        assert_eq!(lines(LineFormat::Lnotab, &[], &[-1, 0, 8]), [Some(10); 3]);
        assert_eq!(lines(LineFormat::Lnotab, &[6, 1], &[0, 6]), [Some(10), Some(11)]);
    }

    #[test]
    fn ranges_count_code_units_and_know_code_without_a_line() {
        let table = [4, 1, 0, 5, 2, 0x80, 2, 1];
        let expected = [Some(11), Some(11), None, Some(17), None, Some(10)];
        assert_eq!(lines(LineFormat::Ranges, &table, &[0, 1, 2, 3, 4, -1]), expected);
    }

    #[test]
    fn locations_keep_the_running_line_over_code_without_one() {
        // +1 line (kind 11), no location (15), same line (0), +2 by long form (14), -1 by no-column form (13).
        let table = [0xd8, 0, 0, 0xf9, 0x80, 0, 0xf0, 4, 0, 1, 1, 0xe8, 3];
        let expected = [Some(11), None, None, Some(11), Some(13), Some(12), None, Some(10)];
        assert_eq!(lines(LineFormat::Locations, &table, &[0, 2, 4, 6, 8, 10, 12, -2]), expected);
    }

    #[test]
    fn torn_tables_end_early() {
        for table in [&[0x05][..], &[0xd8], &[0xd8, 0], &[0xe8], &[0xe8, 0xff, 0xff], &[0xe8; 64], &[0xf0, 4, 0]] {
            assert_eq!(lines(LineFormat::Locations, table, &[0, i32::MAX]), [None; 2], "{table:x?}");
        }
        assert_eq!(lines(LineFormat::Ranges, &[4], &[0]), [None]);
        let hostile: Vec<u8> = (0..=255).cycle().take(4096).collect();
        for format in [LineFormat::Lnotab, LineFormat::Ranges, LineFormat::Locations] {
            let _ = lines(format, &hostile, &[i32::MIN, -1, 0, i32::MAX]);
        }
    }
}
