//! The saved form of a cache: the same bytes on every machine, and readable for ever.
//!
//! All numbers are little-endian. `"LMSTATE\0"`; u32: version, type of the state; u64: sequences, then what
//! [`fingerprint`] lists, then the tokens that each sequence has seen. Then for each sequence, in the type of the state:
//! the inputs of the convolution with the longest history, or of each where they are stacked, (d_inner, inputs), oldest
//! first; the state of the state space model, (d_inner, d_state). Last the CRC-32 of all before it.

use super::{AnyState, Cache, Held, Shape, lane_rows};
use crate::error::{Result, fail};
use crate::layer::Layer;
use crate::memory::product;
use crate::tensor::{DType, each_dtype, with_dtype};

const MAGIC: &[u8; 8] = b"LMSTATE\0";
const VERSION: u32 = 1;
/// Magic, version, type and number of sequences.
const HEAD_LEN: usize = 24;
const CHECKSUM_LEN: usize = 4;
/// No stream has seen more tokens, and counting on from there does not overflow.
const MOST_TOKENS: u64 = 1 << 62;

/// What a layer and a state saved for it must have in common.
fn fingerprint(shape: &Shape) -> impl Iterator<Item = (&'static str, u64)> {
    let Shape { variant, dtype, dims, dilations, device: _ } = shape;
    let sizes = [
        ("variant", *variant as u64),
        ("dtype", *dtype as u64),
        ("d_model", dims.d_model as u64),
        ("d_inner", dims.d_inner as u64),
        ("d_state", dims.d_state as u64),
        ("d_conv", dims.d_conv as u64),
        ("dt_rank", dims.dt_rank as u64),
        ("num_conv_dilations", dilations.len() as u64),
    ];
    sizes.into_iter().chain(dilations.iter().map(|&dilation| ("a dilation", dilation as u64)))
}

/// Bytes of the saved state of `batch` sequences.
fn saved_len(shape: &Shape, batch: usize, dtype: DType) -> Result<usize> {
    let what = "the saved cache";
    let rows = lane_rows(shape.variant, &shape.dims)?;
    let values = product(what, &[rows, shape.dims.d_inner, dtype.size()])?;
    let lanes = product(what, &[batch, values.saturating_add(size_of::<u64>())])?;
    let rest = HEAD_LEN + fingerprint(shape).count() * size_of::<u64>() + CHECKSUM_LEN;
    product(what, &[lanes.saturating_add(rest), 1])
}

impl Cache {
    /// Bytes of the saved form.
    ///
    /// # Errors
    /// `OutOfMemory` where the number overflows, `Internal` for a cache that a failed call left undefined.
    pub fn saved_len(&self) -> Result<usize> {
        self.check_usable()?;
        saved_len(&self.shape, self.batch(), self.dtype())
    }

    /// Writes the saved form into `buffer`, which may be longer, and gives its length. The same state gives the same
    /// bytes on every machine.
    ///
    /// # Errors
    /// `BufferTooSmall` for a shorter one, and as [`Cache::saved_len`].
    pub fn save(&self, buffer: &mut [u8]) -> Result<usize> {
        let (len, capacity) = (self.saved_len()?, buffer.len());
        let Some(buffer) = buffer.get_mut(..len) else {
            fail!(BufferTooSmall, "capacity is {capacity}; the saved cache has {len} bytes");
        };
        let (content, checksum) = buffer.split_at_mut(len - CHECKSUM_LEN);
        let mut rest = &mut content[..];
        let mut put = |bytes: &[u8]| {
            let (to, behind) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            to.copy_from_slice(bytes);
            rest = behind;
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(self.dtype() as u32).to_le_bytes());
        put(&(self.batch() as u64).to_le_bytes());
        fingerprint(&self.shape).for_each(|(_, value)| put(&value.to_le_bytes()));
        self.state.on_host(|state| {
            let (seen, rest) = rest.split_at_mut(size_of_val(state.offsets()));
            let seen = seen.as_chunks_mut().0.iter_mut();
            seen.zip(state.offsets()).for_each(|(to, offset)| *to = offset.to_le_bytes());
            each_dtype!(AnyState, state, state => {
                let places = (0..state.lanes).flat_map(|lane| state.places(lane));
                for (to, at) in rest.as_chunks_mut().0.iter_mut().zip(places) {
                    *to = state.values[at].to_le_bytes();
                }
            });
        })?;
        checksum.copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        Ok(len)
    }

    /// A cache for `layer` from its saved form.
    ///
    /// # Errors
    /// `Format` for bytes that are no saved cache, cut short or altered; `Unsupported` for those of a later version;
    /// `ShapeMismatch` where they were saved for a layer of another variant, shape or type; `OutOfMemory`.
    pub fn load(layer: &Layer, bytes: &[u8]) -> Result<Cache> {
        let altered = "its checksum is not that of its content: it is cut short or was altered";
        let Some((MAGIC, rest)) = bytes.split_first_chunk() else {
            fail!(Format, "buffer is no saved cache: it does not begin like one");
        };
        let Some((version, _)) = rest.split_first_chunk() else {
            fail!(Format, "the saved cache is cut short: it has {} bytes", bytes.len());
        };
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            fail!(
                Unsupported,
                "the saved cache is of version {version}; this library reads version {VERSION}"
            );
        }
        let content = match bytes.split_last_chunk() {
            Some((content, sum))
                if content.len() >= HEAD_LEN && crc32fast::hash(content).to_le_bytes() == *sum =>
            {
                content
            }
            _ => fail!(Format, "the saved cache has {} bytes; {altered}", bytes.len()),
        };
        let mut numbers =
            content[HEAD_LEN - 8..].as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let batch = numbers.next().and_then(|batch| usize::try_from(batch).ok());
        let dtypes = [DType::F32, DType::F64, DType::Bf16, DType::F16];
        let dtype = dtypes.into_iter().find(|&dtype| (dtype as u32).to_le_bytes() == content[12..16]);
        let (Some(batch), Some(dtype)) = (batch, dtype) else {
            fail!(Format, "the saved cache has a batch or a type that there is not");
        };
        let shape = Shape::of(layer);
        let rows = lane_rows(shape.variant, &shape.dims)?;
        for (name, expected) in fingerprint(&shape) {
            let found = numbers.next().unwrap_or(0);
            if found != expected {
                fail!(
                    ShapeMismatch,
                    "the saved cache is of a layer whose {name} is {found}; this layer's is {expected}"
                );
            }
        }
        let expected = saved_len(&shape, batch, dtype)?;
        if bytes.len() != expected {
            fail!(
                Format,
                "the saved cache has {} bytes; by what it says it must have {expected}",
                bytes.len()
            );
        }
        let mut state = AnyState::new(shape.variant, &shape.dims, batch, dtype)?;
        with_dtype!(dtype, T => {
            let state = state.of::<T>().expect("made with this type");
            for (to, offset) in state.offsets.iter_mut().zip(numbers) {
                if offset > MOST_TOKENS {
                    fail!(Format, "the saved cache has a sequence of {offset} tokens; {MOST_TOKENS} are the most");
                }
                *to = offset;
            }
            let values_len = product("the saved cache", &[batch, rows, shape.dims.d_inner, size_of::<T>()])?;
            let mut values = content[content.len() - values_len..].as_chunks().0.iter();
            for lane in 0..batch {
                for (at, bytes) in state.places(lane).zip(&mut values) {
                    state.values[at] = T::from_le_bytes(*bytes);
                }
            }
        });
        Cache::with_held(layer, Held::from_host(layer, state)?)
    }
}
