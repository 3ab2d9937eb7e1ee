//! Sums of waits by reason and stack.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use aiprof_capture::event::{Frame, FrameKind, Stack};

use super::model::{Kind, Site, WaitReason, WaitReport};

/// Count, sum and maximum of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// All together.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

impl Sum {
    /// Adds one.
    pub fn add(&mut self, duration_ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(duration_ns);
        self.longest_ns = self.longest_ns.max(duration_ns);
    }

    /// As a row.
    #[must_use]
    pub fn named(self, reason: &str) -> WaitReason {
        WaitReason {
            reason: reason.to_owned(),
            count: self.count,
            total_ns: self.total_ns,
            longest_ns: self.longest_ns,
        }
    }
}

/// Sums by reason only.
#[derive(Clone, Debug, Default)]
pub struct ReasonSums(HashMap<Arc<str>, Sum>);

impl ReasonSums {
    /// Adds a wait.
    pub fn add(&mut self, reason: &Arc<str>, duration_ns: u64) {
        self.0.entry(Arc::clone(reason)).or_default().add(duration_ns);
    }

    /// The rows, the longest first.
    #[must_use]
    pub fn rows(&self) -> Vec<WaitReason> {
        let mut rows: Vec<_> = self.0.iter().map(|(reason, sum)| sum.named(reason)).collect();
        rows.sort_unstable_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.reason.cmp(&b.reason)));
        rows
    }
}

/// Frames that a wait is told by, addresses left out so that equal places are equal.
type Place = Arc<[(FrameKind, Arc<str>, Arc<str>, u32)]>;

/// Sums by reason and stack.
#[derive(Clone, Debug, Default)]
pub struct WaitSums(HashMap<(Arc<str>, Place), Sum>);

impl WaitSums {
    /// Adds a wait.
    pub fn add(&mut self, reason: &Arc<str>, stack: Option<&Stack>, duration_ns: u64) {
        let key = (Arc::clone(reason), place(stack));
        self.0.entry(key).or_default().add(duration_ns);
    }

    /// The rows, the longest first, `top` of them.
    #[must_use]
    pub fn rows(&self, top: usize) -> Vec<WaitReport> {
        let all_ns: u64 = self.0.values().fold(0, |sum, wait| sum.saturating_add(wait.total_ns));
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_unstable_by_key(|&((reason, place), sum)| (Reverse(sum.total_ns), reason, place.len()));
        rows.truncate(top);
        rows.into_iter()
            .map(|((reason, place), sum)| WaitReport {
                wait: sum.named(reason),
                share: if all_ns == 0 { 0.0 } else { sum.total_ns as f64 / all_ns as f64 },
                stack: place.iter().map(site).collect(),
            })
            .collect()
    }
}

/// The Python frames; without any the native ones; without those the kernel's.
fn place(stack: Option<&Stack>) -> Place {
    let frames: &[Arc<Frame>] = stack.map_or(&[], |stack| &stack.frames);
    let kind = [FrameKind::Python, FrameKind::Native, FrameKind::Kernel]
        .into_iter()
        .find(|&kind| frames.iter().any(|frame| frame.kind == kind));
    frames
        .iter()
        .filter(|frame| Some(frame.kind) == kind)
        .map(|frame| (frame.kind, Arc::clone(&frame.function), Arc::clone(&frame.file), frame.line))
        .collect()
}

fn site((kind, function, file, line): &(FrameKind, Arc<str>, Arc<str>, u32)) -> Site {
    Site { kind: Kind::from(*kind), function: function.to_string(), file: file.to_string(), line: *line }
}

impl From<FrameKind> for Kind {
    fn from(kind: FrameKind) -> Self {
        match kind {
            FrameKind::Python => Self::Python,
            FrameKind::Native => Self::Native,
            FrameKind::Kernel => Self::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[(FrameKind, &str, u64)]) -> Stack {
        let frame = |&(kind, function, address): &(FrameKind, &str, u64)| {
            Arc::new(Frame { kind, function: function.into(), address, ..Frame::default() })
        };
        Stack { frames: frames.iter().map(frame).collect(), cut: false }
    }

    #[test]
    fn waits_are_told_by_python_and_else_by_native_frames() {
        let futex: Arc<str> = "futex".into();
        let mut sums = WaitSums::default();
        let python = stack(&[
            (FrameKind::Kernel, "futex_wait", 0),
            (FrameKind::Native, "sem_wait", 1),
            (FrameKind::Python, "get", 0),
        ]);
        let native = |address| stack(&[(FrameKind::Kernel, "futex_wait", 0), (FrameKind::Native, "sem_wait", address)]);
        sums.add(&futex, Some(&python), 100);
        sums.add(&futex, Some(&native(1)), 30);
        sums.add(&futex, Some(&native(2)), 50);
        sums.add(&futex, None, 20);
        let rows = sums.rows(10);
        let names: Vec<Vec<_>> =
            rows.iter().map(|row| row.stack.iter().map(|site| site.function.as_str()).collect()).collect();
        assert_eq!(names, [vec!["get"], vec!["sem_wait"], vec![]]);
        assert_eq!(rows[1].wait, WaitReason { reason: "futex".into(), count: 2, total_ns: 80, longest_ns: 50 });
        assert!((rows[0].share - 0.5).abs() < 1e-9);
    }
}
