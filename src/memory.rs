//! Memory that is asked for, never assumed: every allocation of a size that a caller chose can fail.

use std::ops::{Deref, DerefMut};

use crate::error::{Error, ErrorKind, Result, fail};

/// Alignment of every [`Buffer`], in bytes: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// A zeroed, cache-line-aligned array of fixed length.
#[derive(Debug)]
pub struct Buffer<T> {
    // Over-allocated by one line; the aligned part starts at `start`. Never grown, so it never moves.
    storage: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// `len` zeros. `what` names the array in the error.
    ///
    /// # Errors
    /// `OutOfMemory` when the size overflows, exceeds the machine's memory or is refused by the allocator.
    pub fn zeroed(what: &str, len: usize) -> Result<Self> {
        let padding = ALIGNMENT / size_of::<T>();
        let total = len.checked_add(padding).ok_or_else(|| out_of_memory(what))?;
        check_fits(what, bytes_of::<T>(what, total)?)?;
        let mut storage = Vec::new();
        storage.try_reserve_exact(total).map_err(|_| out_of_memory(what))?;
        storage.resize(total, T::default());
        let start = storage.as_ptr().align_offset(ALIGNMENT);
        Ok(Buffer { storage, start, len })
    }

    /// An equal copy.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub fn try_clone(&self, what: &str) -> Result<Self> {
        let mut copy = Self::zeroed(what, self.len)?;
        copy.copy_from_slice(self);
        Ok(copy)
    }

    /// Bytes of the array itself.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

/// The product of `sizes`, or `OutOfMemory` naming `what` when it overflows.
pub fn product(what: &str, sizes: &[usize]) -> Result<usize> {
    sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| out_of_memory(what))
}

/// Bytes of `len` values of `T`, or `OutOfMemory` naming `what` when that overflows.
pub fn bytes_of<T>(what: &str, len: usize) -> Result<usize> {
    product(what, &[len, size_of::<T>()])
}

/// `OutOfMemory` naming `what` unless `bytes` is less than the machine's physical memory.
///
/// Systems that overcommit grant any request and kill the process when the pages are touched; so the
/// sum is held against the memory that exists before anything is touched.
pub fn check_fits(what: &str, bytes: usize) -> Result<()> {
    let physical = crate::simd::system::physical_memory();
    if bytes as u64 > physical {
        fail!(OutOfMemory, "{what} needs {bytes} bytes; this machine has {physical}");
    }
    Ok(())
}

fn out_of_memory(what: &str) -> Error {
    Error::new(ErrorKind::OutOfMemory, format!("{what} needs more memory than can be had"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_of_the_asked_length() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let buffer = Buffer::<f32>::zeroed("test", len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert!(buffer.iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for len in [usize::MAX, usize::MAX / 4, 1 << 50] {
            let error = Buffer::<f32>::zeroed("the history", len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            assert!(error.message().contains("the history"), "{error}");
        }
    }
}
