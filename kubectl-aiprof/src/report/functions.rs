//! Counts of functions over samples.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use aiprof_capture::event::{Frame, FrameKind, Stack};

use super::model::{FunctionReport, Functions};

/// A function: its name, its file, its kind; lines and addresses within it are one function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Function {
    kind: FrameKind,
    name: Arc<str>,
    file: Arc<str>,
}

/// Numbers functions, so that counting them is cheap.
#[derive(Debug, Default)]
pub struct FunctionNumbers {
    numbers: HashMap<Function, usize>,
    functions: Vec<Function>,
    /// Per function, the last sample that it was counted in.
    counted_in: Vec<u64>,
    samples: u64,
}

impl FunctionNumbers {
    fn number(&mut self, frame: &Frame) -> usize {
        let function = Function { kind: frame.kind, name: Arc::clone(&frame.function), file: Arc::clone(&frame.file) };
        let functions = &mut self.functions;
        let counted_in = &mut self.counted_in;
        *self.numbers.entry(function).or_insert_with_key(|function| {
            functions.push(function.clone());
            counted_in.push(0);
            functions.len() - 1
        })
    }
}

/// How often a function was met.
#[derive(Clone, Debug, Default)]
struct Counts {
    own: u64,
    total: u64,
    /// Per line, how often it was met there: the innermost occurrence in a sample.
    lines: HashMap<u32, u64>,
}

/// Counts of one process.
#[derive(Clone, Debug, Default)]
pub struct FunctionCounts {
    samples: u64,
    counts: HashMap<usize, Counts>,
}

impl FunctionCounts {
    /// Counts one sample.
    pub fn add(&mut self, stack: &Stack, numbers: &mut FunctionNumbers) {
        self.samples += 1;
        numbers.samples += 1;
        let this = numbers.samples;
        let mut innermost_python = true;
        let mut innermost_user = true;
        for (depth, frame) in stack.frames.iter().enumerate() {
            let number = numbers.number(frame);
            let counts = self.counts.entry(number).or_default();
            if numbers.counted_in[number] != this {
                numbers.counted_in[number] = this;
                counts.total += 1;
                *counts.lines.entry(frame.line).or_default() += 1;
            }
            let own = match frame.kind {
                FrameKind::Kernel => depth == 0,
                FrameKind::Native => innermost_user,
                FrameKind::Python => std::mem::take(&mut innermost_python),
            };
            counts.own += u64::from(own);
            innermost_user &= frame.kind == FrameKind::Kernel;
        }
    }

    /// Adds the counts of another process.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        for (&number, counts) in &other.counts {
            let sum = self.counts.entry(number).or_default();
            sum.own += counts.own;
            sum.total += counts.total;
            for (&line, count) in &counts.lines {
                *sum.lines.entry(line).or_default() += count;
            }
        }
    }

    /// Samples counted.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The tables, `top` rows each.
    #[must_use]
    pub fn tables(&self, numbers: &FunctionNumbers, period_ns: u64, top: usize) -> Functions {
        let own = |counts: &Counts| counts.own;
        let total = |counts: &Counts| counts.total;
        let table = |kind, by: &dyn Fn(&Counts) -> u64| self.table(numbers, kind, by, period_ns, top);
        Functions {
            python_by_self: table(FrameKind::Python, &own),
            python_by_total: table(FrameKind::Python, &total),
            native_by_self: table(FrameKind::Native, &own),
            kernel_by_self: table(FrameKind::Kernel, &own),
        }
    }

    fn table(
        &self,
        numbers: &FunctionNumbers,
        kind: FrameKind,
        by: &dyn Fn(&Counts) -> u64,
        period_ns: u64,
        top: usize,
    ) -> Vec<FunctionReport> {
        let mut rows: Vec<_> = self
            .counts
            .iter()
            .map(|(&number, counts)| (&numbers.functions[number], counts))
            .filter(|(function, counts)| function.kind == kind && by(counts) > 0)
            .collect();
        rows.sort_unstable_by_key(|&(function, counts)| (Reverse(by(counts)), &function.name, &function.file));
        rows.truncate(top);
        let share = |count: u64| count as f64 / self.samples as f64;
        rows.into_iter()
            .map(|(function, counts)| FunctionReport {
                function: function.name.to_string(),
                file: function.file.to_string(),
                line: counts
                    .lines
                    .iter()
                    .max_by_key(|&(&line, &count)| (count, Reverse(line)))
                    .map_or(0, |(&line, _)| line),
                self_samples: counts.own,
                total_samples: counts.total,
                self_ns: counts.own.saturating_mul(period_ns),
                total_ns: counts.total.saturating_mul(period_ns),
                self_share: share(counts.own),
                total_share: share(counts.total),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameKind, function: &str, line: u32) -> Arc<Frame> {
        let file = if kind == FrameKind::Python { "a.py" } else { "" };
        Arc::new(Frame { kind, function: function.into(), file: file.into(), line, ..Frame::default() })
    }

    fn count(stacks: &[Vec<Arc<Frame>>]) -> Functions {
        let mut numbers = FunctionNumbers::default();
        let mut counts = FunctionCounts::default();
        for stack in stacks {
            counts.add(&Stack { frames: stack.clone().into(), cut: false }, &mut numbers);
        }
        counts.tables(&numbers, 10_000_000, 10)
    }

    #[test]
    fn recursion_counts_once_for_the_total() {
        let python = |function, line| frame(FrameKind::Python, function, line);
        let stack = vec![python("f", 3), python("f", 2), python("f", 2), python("main", 9)];
        let tables = count(&[stack.clone(), stack, vec![python("main", 8)]]);
        let f = &tables.python_by_total[1];
        assert_eq!((f.function.as_str(), f.total_samples, f.self_samples, f.line), ("f", 2, 2, 3));
        let main = &tables.python_by_total[0];
        assert_eq!(
            (main.function.as_str(), main.total_samples, main.self_samples, main.total_share),
            ("main", 3, 1, 1.0)
        );
        assert_eq!(main.total_ns, 30_000_000);
    }

    #[test]
    fn each_kind_has_its_own_self_time() {
        let stack = vec![
            frame(FrameKind::Kernel, "copy_page", 0),
            frame(FrameKind::Kernel, "do_syscall_64", 0),
            frame(FrameKind::Native, "memcpy", 0),
            frame(FrameKind::Native, "list_extend", 0),
            frame(FrameKind::Python, "f", 1),
        ];
        let tables = count(&[stack]);
        let names = |rows: &[FunctionReport]| rows.iter().map(|row| row.function.clone()).collect::<Vec<_>>();
        assert_eq!(names(&tables.kernel_by_self), ["copy_page"]);
        assert_eq!(names(&tables.native_by_self), ["memcpy"]);
        assert_eq!(names(&tables.python_by_self), ["f"]);
    }

    #[test]
    fn a_native_frame_below_python_has_no_self_time() {
        let stack = vec![frame(FrameKind::Python, "f", 1), frame(FrameKind::Native, "main", 0)];
        assert!(count(&[stack]).native_by_self.is_empty());
    }

    #[test]
    fn nothing_gives_empty_tables() {
        assert_eq!(count(&[]), Functions::default());
    }
}
