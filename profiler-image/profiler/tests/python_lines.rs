//! The line-table decoders against CPython's own, over its whole standard library.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod python_support;

use std::process::Command;

use aiprof_profiler::python::{LineFormat, LineTable};

#[test]
fn lines_equal_those_of_cpython() {
    for (minor, python) in python_support::pythons() {
        let output = Command::new(&python).arg("-I").arg(python_support::script("lines.py")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let format = match minor {
            8 | 9 => LineFormat::Lnotab,
            10 => LineFormat::Ranges,
            _ => LineFormat::Locations,
        };
        let (mut objects, mut instructions) = (0, 0);
        for row in String::from_utf8(output.stdout).unwrap().lines() {
            instructions += compare(format, row);
            objects += 1;
        }
        println!("3.{minor}: {objects} code objects, {instructions} instructions, no mismatch");
        assert!(objects > 3000 && instructions > 100_000, "3.{minor}: only {objects} and {instructions}");
    }
}

/// Compares every instruction of one code object; gives their number.
fn compare(format: LineFormat, row: &str) -> usize {
    let fields: Vec<_> = row.split(' ').collect();
    let [first_line, table, length, ranges] = fields[..] else { panic!("{row}") };
    let table: Vec<u8> =
        (0..table.len() / 2).map(|at| u8::from_str_radix(&table[2 * at..2 * at + 2], 16).unwrap()).collect();
    let lines = LineTable::decode(format, &table, first_line.parse().unwrap());
    let length: i32 = length.parse().unwrap();
    let mut ranges = ranges
        .split(',')
        .map(|range| range.split_once(':').unwrap())
        .map(|(start, line)| (start.parse::<i32>().unwrap(), line.parse::<u32>().unwrap()))
        .peekable();
    let mut expected = 0;
    for byte in (0..length).step_by(2) {
        while let Some((_, line)) = ranges.next_if(|(start, _)| *start <= byte) {
            expected = line;
        }
        let instruction = if format == LineFormat::Ranges { byte / 2 } else { byte };
        assert_eq!(lines.line(instruction).unwrap_or(0), expected, "byte {byte} of {row}");
    }
    length as usize / 2
}
