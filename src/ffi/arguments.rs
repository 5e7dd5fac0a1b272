//! What C passes, checked and turned into what Rust can trust. Every function here takes the argument's
//! name for its message.

use std::ffi::{CStr, c_char};

use super::types::{Handle, Versioned};
use crate::error::{Error, ErrorKind, Result, fail};
use crate::layer::Tokens;
use crate::memory;

/// Refuses NULL and misaligned pointers.
pub(super) fn check<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        fail!(NullPointer, "{name} is NULL; it must not be");
    }
    if !pointer.is_aligned() {
        fail!(InvalidArgument, "{name} is {pointer:p}; it must be aligned to {} bytes", align_of::<T>());
    }
    Ok(())
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is NULL or a live handle that nothing changes during `'a`.
pub(super) unsafe fn object<'a, H: Handle>(handle: *const H, name: &str) -> Result<&'a H::Object> {
    let object = handle.cast::<H::Object>();
    check(object, name)?;
    // SAFETY: neither NULL nor misaligned; alive and unchanged as the caller promises.
    Ok(unsafe { &*object })
}

/// The object behind a handle, to be changed.
///
/// # Safety
/// `handle` is NULL or a live handle that nothing else uses during `'a`.
pub(super) unsafe fn object_mut<'a, H: Handle>(handle: *mut H, name: &str) -> Result<&'a mut H::Object> {
    let object = handle.cast::<H::Object>();
    check(object, name)?;
    // SAFETY: neither NULL nor misaligned; alive and ours alone as the caller promises.
    Ok(unsafe { &mut *object })
}

/// Gives `object` to the caller as a handle, through `out`, which was checked.
///
/// # Safety
/// `out` may be written.
pub(super) unsafe fn give<H: Handle>(object: H::Object, out: *mut *mut H) {
    // SAFETY: as the caller promises.
    unsafe { out.write(Box::into_raw(Box::new(object)).cast()) };
}

/// Frees what [`give`] gave; nothing for NULL.
///
/// # Safety
/// `handle` is NULL or came from [`give`] and is not used again.
pub(super) unsafe fn take_back<H: Handle>(handle: *mut H) {
    if !handle.is_null() {
        // SAFETY: `give` made it from a box of this type.
        drop(unsafe { Box::from_raw(handle.cast::<H::Object>()) });
    }
}

/// `count` values to read. NULL is an empty slice where `count` is 0.
///
/// # Safety
/// `values` is NULL or `count` values may be read there and nothing changes them during `'a`.
pub(super) unsafe fn slice<'a, T>(values: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check_array(values, count, name)?;
    // SAFETY: not NULL, aligned, of a size that can exist; readable as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(values, count) })
}

/// [`slice`] for what is read to its end before its content is known to be right: with a count that is larger than
/// the memory, that would be a crash.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn slice_in_memory<'a, T>(values: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    memory::check_fits(name, count.saturating_mul(size_of::<T>()))?;
    // SAFETY: as the caller promises.
    unsafe { slice(values, count, name) }
}

/// `count` values to write. NULL is an empty slice where `count` is 0.
///
/// # Safety
/// `values` is NULL or `count` initialised values are there that nothing else uses during `'a`.
pub(super) unsafe fn slice_mut<'a, T>(values: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    check_array(values, count, name)?;
    // SAFETY: not NULL, aligned, of a size that can exist; ours alone as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts_mut(values, count) })
}

fn check_array<T>(values: *const T, count: usize, name: &str) -> Result<()> {
    check(values, name)?;
    if count > isize::MAX as usize / size_of::<T>() {
        fail!(OutOfMemory, "{name} is to hold {count} values; no memory can hold that many");
    }
    Ok(())
}

/// A UTF-8 string that must be there.
///
/// # Safety
/// `text` is NULL or NUL-terminated and unchanged during `'a`.
pub(super) unsafe fn string<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    check(text, name)?;
    // SAFETY: not NULL; NUL-terminated as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|error| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("{name} is not UTF-8: its byte {} is not valid there", error.valid_up_to()),
        )
    })
}

/// A UTF-8 string that may be NULL.
///
/// # Safety
/// As [`string`].
pub(super) unsafe fn optional_string<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { string(text, name) }.map(Some)
}

/// The value of an enumeration that has this number, among `all`, each with its C name.
pub(super) fn enumerated<T: Copy>(
    number: u32,
    all: &[(u32, &str, T)],
    kind: ErrorKind,
    name: &str,
) -> Result<T> {
    all.iter().find(|(n, ..)| *n == number).map(|&(.., value)| value).ok_or_else(|| {
        let known = all.iter().map(|(n, c_name, _)| format!("{c_name} ({n})")).collect::<Vec<_>>().join(", ");
        Error::new(kind, format!("{name} is {number}; it must be one of {known}"))
    })
}

/// What a forward pass reads and writes: `shape` values at `x` and at `y`, which may be one buffer.
///
/// # Safety
/// As [`slice`] for `x` and [`slice_mut`] for `y`, except that both may be the same.
pub(super) unsafe fn tokens<'a>(
    x: *const f32,
    y: *mut f32,
    shape: [(&str, usize); 3],
) -> Result<Tokens<'a, f32>> {
    check(x, "x")?;
    check(y, "y")?;
    let count = count_of("x", shape).or_else(|_| {
        // Again, for the message alone: a step allocates nothing.
        count_of(&shape.map(|(name, size)| format!("{name} {size}")).join(", "), shape)
    })?;
    if std::ptr::eq(x, y) {
        // SAFETY: one buffer, ours alone as the caller promises.
        return Ok(Tokens::InPlace(unsafe { slice_mut(y, count, "y") }?));
    }
    if x.addr().abs_diff(y.addr()) < count * size_of::<f32>() {
        fail!(InvalidArgument, "y overlaps x in part; it must be the same buffer or a separate one");
    }
    // SAFETY: readable and writable as the caller promises, and just seen to be disjoint.
    unsafe { Ok(Tokens::Separate { x: slice(x, count, "x")?, y: slice_mut(y, count, "y")? }) }
}

/// How many values a tensor of this shape has. One that is larger than the memory does not exist: without
/// this, reading it would be a crash.
fn count_of(what: &str, shape: [(&str, usize); 3]) -> Result<usize> {
    let count = memory::product(what, &shape.map(|(_, size)| size))?;
    memory::check_fits(what, memory::bytes_of::<f32>(what, count)?)?;
    Ok(count)
}

/// Reads a struct that the caller may have compiled against an earlier version: `defaults` with as many
/// bytes overwritten as the caller's struct has.
///
/// # Safety
/// `given` is NULL or points to as many bytes as the `struct_size` it begins with says.
pub(super) unsafe fn read_struct<T: Versioned>(given: *const T, defaults: T, name: &str) -> Result<T> {
    check(given, name)?;
    // SAFETY: begins with `struct_size`, as every `Versioned` does.
    let size = unsafe { given.cast::<usize>().read() };
    check_struct_size::<T>(size, ErrorKind::InvalidConfig, &format!("{name}->struct_size"))?;
    let mut value = defaults;
    // SAFETY: `size` bytes can be read as the caller promises and, as a known size is none larger than
    // `T`, written; a `Versioned` is valid with any bytes.
    unsafe { std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut value).cast::<u8>(), size) };
    Ok(value)
}

/// Writes the first `struct_size` bytes of `value`, whose `struct_size` field is the caller's.
///
/// # Safety
/// `out` is NULL or `struct_size` bytes may be written there.
pub(super) unsafe fn write_struct<T: Versioned>(
    value: &T,
    out: *mut T,
    struct_size: usize,
    name: &str,
) -> Result<()> {
    check(out, name)?;
    check_struct_size::<T>(struct_size, ErrorKind::InvalidArgument, "struct_size")?;
    // SAFETY: a known size is none larger than `T`; writable as the caller promises.
    unsafe { std::ptr::copy_nonoverlapping((&raw const *value).cast::<u8>(), out.cast::<u8>(), struct_size) };
    Ok(())
}

/// Refuses every `struct_size` but those that `T` has had.
fn check_struct_size<T: Versioned>(size: usize, kind: ErrorKind, name: &str) -> Result<()> {
    if T::SIZES.contains(&size) {
        return Ok(());
    }
    let known = T::SIZES.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
    Err(Error::new(kind, format!("{name} is {size}; this version knows {known}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct that has grown by `second`; the first version ended before it.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: usize,
        first: usize,
        second: usize,
    }

    const OLD: usize = 2 * size_of::<usize>();
    const NEW: usize = size_of::<Grown>();

    // SAFETY: three integers.
    unsafe impl Versioned for Grown {
        const SIZES: &'static [usize] = &[OLD, NEW];
    }

    const DEFAULTS: Grown = Grown { struct_size: NEW, first: 10, second: 20 };
    const UNKNOWN: [usize; 6] = [0, 1, OLD - 1, OLD + 1, NEW + 1, usize::MAX];

    #[test]
    fn an_earlier_version_of_a_struct_is_read_with_defaults_for_what_it_lacks() {
        let read = |struct_size| {
            let given = Grown { struct_size, first: 1, second: 2 };
            // SAFETY: it has as many bytes as every known size.
            unsafe { read_struct(&given, DEFAULTS, "given") }
        };
        assert_eq!(read(OLD), Ok(Grown { struct_size: OLD, first: 1, second: 20 }));
        assert_eq!(read(NEW), Ok(Grown { struct_size: NEW, first: 1, second: 2 }));
        for size in UNKNOWN {
            let error = read(size).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().contains(&format!("given->struct_size is {size};")), "{error}");
        }
    }

    #[test]
    fn no_more_of_a_struct_is_written_than_the_caller_has() {
        let write = |struct_size| {
            let mut out = Grown { struct_size: 7, first: 7, second: 7 };
            let value = Grown { struct_size, ..DEFAULTS };
            // SAFETY: it has room for every known size.
            let result = unsafe { write_struct(&value, &mut out, struct_size, "out") };
            (result, out)
        };
        assert_eq!(write(OLD), (Ok(()), Grown { struct_size: OLD, first: 10, second: 7 }));
        assert_eq!(write(NEW), (Ok(()), DEFAULTS));
        for size in UNKNOWN {
            let (result, out) = write(size);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidArgument);
            assert_eq!(out, Grown { struct_size: 7, first: 7, second: 7 });
        }
    }
}
