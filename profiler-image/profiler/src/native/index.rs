//! The sorted index of a file's unwind tables, `.eh_frame_hdr` (Linux Standard Base Core 5.0, 10.6.2): it has one entry for
//! each function, with or without a symbol.

/// `DW_EH_PE_udata4`, and `DW_EH_PE_datarel | DW_EH_PE_sdata4`: what all linkers write.
const COUNT_ENCODING: u8 = 0x03;
const TABLE_ENCODING: u8 = 0x3b;
const HEADER_BYTES: usize = 12;

/// Where the last function that starts at or below `address` starts; `section` is the index's own address.
pub(super) fn function_start(index: &[u8], section: u64, address: u64) -> Option<u64> {
    let (header, table) = index.split_first_chunk::<HEADER_BYTES>()?;
    let &[version, _, count_encoding, table_encoding, _, _, _, _, c0, c1, c2, c3] = header;
    if (version, count_encoding, table_encoding) != (1, COUNT_ENCODING, TABLE_ENCODING) {
        return None;
    }
    let (entries, _) = table.as_chunks::<8>();
    let entries = &entries[..entries.len().min(u32::from_le_bytes([c0, c1, c2, c3]) as usize)];
    let start =
        |&[s0, s1, s2, s3, ..]: &[u8; 8]| section.wrapping_add_signed(i64::from(i32::from_le_bytes([s0, s1, s2, s3])));
    let behind = entries.partition_point(|entry| start(entry) <= address);
    entries[..behind].last().map(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(starts: &[i32]) -> Vec<u8> {
        let mut bytes = vec![1, 0x1b, COUNT_ENCODING, TABLE_ENCODING, 0, 0, 0, 0];
        bytes.extend((starts.len() as u32).to_le_bytes());
        for start in starts {
            bytes.extend(start.to_le_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn an_address_belongs_to_the_function_before_it() {
        let bytes = index(&[-0x2000, -0x1000, 0x100]);
        let start = |address| function_start(&bytes, 0x5000, address);
        assert_eq!(start(0x2fff), None);
        assert_eq!(start(0x3000), Some(0x3000));
        assert_eq!(start(0x4001), Some(0x4000));
        assert_eq!(start(0x9000), Some(0x5100));
    }

    #[test]
    fn an_index_that_is_torn_or_of_another_kind_tells_nothing() {
        let bytes = index(&[0, 0x100]);
        assert_eq!(function_start(&bytes[..11], 0, 0x200), None);
        assert_eq!(function_start(&bytes[..HEADER_BYTES], 0, 0x200), None);
        // A count beyond the end is cut.
        let mut long = bytes.clone();
        long[8] = 200;
        assert_eq!(function_start(&long, 0, 0x200), Some(0x100));
        let mut other = bytes;
        other[3] = 0x1b;
        assert_eq!(function_start(&other, 0, 0x200), None);
    }
}
