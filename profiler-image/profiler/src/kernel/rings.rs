//! Reads the records of the rings. Bytes in, values out; what cannot be a record is counted, not trusted.

use aiprof_ebpf_types::{
    PythonFrame, PythonStatus, StackHeader, StackTrigger, SyscallRecord, ThreadEvent, ThreadEventKind,
};
use bytemuck::pod_read_unaligned;

/// One stack record, borrowed from the ring.
#[derive(Debug, PartialEq)]
pub struct StackRecord<'a> {
    /// Its fixed part.
    pub header: StackHeader,
    /// Why it was taken.
    pub trigger: StackTrigger,
    /// How its Python part came out.
    pub python_status: PythonStatus,
    /// Leaf first.
    pub python: Vec<PythonFrame>,
    /// Leaf first.
    pub kernel: Vec<u64>,
    /// From the stack pointer up.
    pub stack: &'a [u8],
}

/// Reads a record of the stack ring; none if it is no whole record.
#[must_use]
pub fn stack_record(bytes: &[u8]) -> Option<StackRecord<'_>> {
    let (header, rest) = bytes.split_at_checked(size_of::<StackHeader>())?;
    let header: StackHeader = pod_read_unaligned(header);
    let (python, rest) = rest.split_at_checked(usize::from(header.python_frames) * size_of::<PythonFrame>())?;
    let (kernel, rest) = rest.split_at_checked(usize::from(header.kernel_frames) * size_of::<u64>())?;
    let stack = rest.get(..header.stack_bytes as usize)?;
    Some(StackRecord {
        header,
        trigger: match header.trigger {
            0 => StackTrigger::Sample,
            1 => StackTrigger::SwitchOut,
            2 => StackTrigger::Syscall,
            _ => return None,
        },
        python_status: match header.python_status {
            0 => PythonStatus::NotPython,
            1 => PythonStatus::Complete,
            2 => PythonStatus::Cut,
            3 => PythonStatus::NoThreadState,
            4 => PythonStatus::ReadFailed,
            _ => return None,
        },
        python: python.chunks_exact(size_of::<PythonFrame>()).map(pod_read_unaligned).collect(),
        kernel: kernel.chunks_exact(size_of::<u64>()).map(pod_read_unaligned).collect(),
        stack,
    })
}

/// Reads a record of the thread ring; none if it is no whole record.
#[must_use]
pub fn thread_event(bytes: &[u8]) -> Option<(ThreadEventKind, ThreadEvent)> {
    let event: ThreadEvent = pod_read_unaligned(bytes.get(..size_of::<ThreadEvent>())?);
    let kind = match event.kind {
        0 => ThreadEventKind::SwitchOut,
        1 => ThreadEventKind::SwitchIn,
        2 => ThreadEventKind::Fork,
        3 => ThreadEventKind::Exec,
        4 => ThreadEventKind::Exit,
        _ => return None,
    };
    Some((kind, event))
}

/// Reads a record of the ring of system calls; none if it is no whole record.
#[must_use]
pub fn syscall_record(bytes: &[u8]) -> Option<SyscallRecord> {
    Some(pod_read_unaligned(bytes.get(..size_of::<SyscallRecord>())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<u8> {
        let header = StackHeader { python_frames: 2, kernel_frames: 1, stack_bytes: 3, ..StackHeader::default() };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        for line in [7, 8] {
            bytes.extend_from_slice(bytemuck::bytes_of(&PythonFrame::new(0x1000, line, 1)));
        }
        bytes.extend_from_slice(&0xffff_8000_0000_0001_u64.to_ne_bytes());
        bytes.extend_from_slice(b"abc");
        bytes
    }

    #[test]
    fn parts_come_out_as_they_went_in() {
        let bytes = record();
        let read = stack_record(&bytes).unwrap();
        assert_eq!(read.python.iter().map(|each| each.instruction).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(read.kernel, [0xffff_8000_0000_0001]);
        assert_eq!(read.stack, b"abc");
    }

    #[test]
    fn a_short_record_or_an_unknown_kind_is_refused() {
        let mut bytes = record();
        for length in 0..bytes.len() {
            assert_eq!(stack_record(&bytes[..length]), None, "{length} bytes were taken for whole");
        }
        let trigger = std::mem::offset_of!(StackHeader, trigger);
        bytes[trigger] = 9;
        assert_eq!(stack_record(&bytes), None);
        let event = ThreadEvent { kind: 5, ..ThreadEvent::default() };
        assert_eq!(thread_event(bytemuck::bytes_of(&event)), None);
    }
}
