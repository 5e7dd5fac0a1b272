//! The sequences among the rows that a kernel works on.

use std::ops::Range;

/// The tokens of one sequence inside a block of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which lane of the state they continue.
    pub lane: usize,
    /// Which rows of the block they are.
    pub rows: Range<usize>,
    /// Tokens that came before.
    pub offset: u64,
}

/// The rows of all segments, which must follow each other and be of `lanes` lanes.
pub(super) fn rows_of(segments: &[Segment], lanes: usize) -> Range<usize> {
    let start = segments.first().map_or(0, |segment| segment.rows.start);
    let end = segments.iter().fold(start, |end, segment| {
        assert!(segment.rows.start == end && segment.rows.end >= end && segment.lane < lanes);
        segment.rows.end
    });
    start..end
}

/// Where the input of token `i` lies in a ring of `length` rows.
#[inline(always)]
pub fn ring_row(i: u64, length: usize) -> usize {
    (i % length as u64) as usize
}
