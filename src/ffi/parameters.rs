//! PARAMETERS AND FILES

use std::ffi::{c_char, c_void};
use std::path::Path;

use super::arguments::{
    check, enumerated, give, object, object_mut, optional_string, slice, slice_mut, string, write_struct,
};
use super::boundary;
use super::config::{DTYPES, from_c};
use super::types::{lm_config, lm_layer, lm_status, lm_tensor_info};
use crate::error::{ErrorKind, Result, fail};
use crate::layer::{Layer, ParameterInfo};
use crate::memory::Buffer;
use crate::tensor::{DType, Element, with_dtype};
use crate::weights;

/// Number of parameters that lm_parameter_info describes. 0 for NULL.
///
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_num_parameters(layer: *const lm_layer) -> usize {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(layer, "layer") }?.parameters().len()))
}

/// Describes a parameter. Names, shapes and order are those of the reference's state dict; of two names for
/// one tensor (`conv1d.weight` is branch 0's) only one is listed, and every function accepts both.
///
/// index: below lm_num_parameters.
/// info: to be filled.
/// struct_size: sizeof(lm_tensor_info).
///
/// LM_ERR_INVALID_ARGUMENT for an index out of range or a struct_size that this library does not know.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_parameter_info(
    layer: *const lm_layer,
    index: usize,
    info: *mut lm_tensor_info,
    struct_size: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let Some(parameter) = layer.parameters().get(index) else {
            fail!(
                InvalidArgument,
                "index is {index}; this layer has {} parameters",
                layer.parameters().len()
            );
        };
        let ParameterInfo { name, shape, weight_decay, dtype } = parameter;
        let described = tensor_info(name, shape, *dtype, *weight_decay, struct_size)?;
        write_struct(&described, info, struct_size, "info")
    })
}

/// Finds a parameter by its name.
///
/// name: as lm_parameter_info gives it, or its other name.
/// index: receives its number for lm_parameter_info.
///
/// LM_ERR_NOT_FOUND for another name.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_find_parameter(
    layer: *const lm_layer,
    name: *const c_char,
    index: *mut usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let found = layer.parameter_index(string(name, "name")?)?;
        check(index, "index")?;
        *index = found;
        Ok(())
    })
}

/// What C is told of a tensor.
pub(super) fn tensor_info(
    name: &str,
    shape: &[usize],
    dtype: DType,
    weight_decay: bool,
    struct_size: usize,
) -> Result<lm_tensor_info> {
    let mut info = lm_tensor_info {
        struct_size,
        ndim: shape.len(),
        shape: [1; 4],
        count: shape.iter().product(),
        dtype: dtype as u32,
        weight_decay: weight_decay.into(),
        name: [0; _],
    };
    if shape.len() > info.shape.len() || name.len() >= info.name.len() {
        fail!(Internal, "{name} of shape {shape:?} does not fit lm_tensor_info");
    }
    info.shape[..shape.len()].copy_from_slice(shape);
    for (to, from) in info.name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(info)
}

/// Copies a parameter out.
///
/// name: as in lm_parameter_info, or its other name.
/// out: count floats.
/// count: the parameter's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_get_parameter(
    layer: *const lm_layer,
    name: *const c_char,
    out: *mut f32,
    count: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        layer.get_parameter(string(name, "name")?, slice_mut(out, count, "out")?)
    })
}

/// Replaces a parameter. Caches stay as they are.
///
/// name: as in lm_parameter_info, or its other name.
/// values: count floats.
/// count: the parameter's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count; LM_ERR_OUT_OF_MEMORY.
/// One thread at a time, with no other use of the layer meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_set_parameter(
    layer: *mut lm_layer,
    name: *const c_char,
    values: *const f32,
    count: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object_mut(layer, "layer")?;
        layer.set_parameter(string(name, "name")?, slice(values, count, "values")?)
    })
}

/// Copies a parameter out in a type of the caller's choice: every value exactly where the type can hold
/// it, as F64 always can, else rounded to nearest.
///
/// name: as in lm_parameter_info, or its other name.
/// dtype: an LM_DTYPE_ value; DEFAULT is the parameter's own type.
/// out: the values, at any alignment.
/// bytes: the size of the parameter's values in that type, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another size; LM_ERR_INVALID_ARGUMENT for
/// no LM_DTYPE_ value; LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_get_parameter_typed(
    layer: *const lm_layer,
    name: *const c_char,
    dtype: u32,
    out: *mut c_void,
    bytes: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let name = string(name, "name")?;
        let out = slice_mut(out.cast::<u8>(), bytes, "out")?;
        with_dtype!(typed(layer, name, dtype)?, T => {
            let mut values = typed_values::<T>(layer, name, bytes)?;
            layer.get_parameter(name, &mut values)?;
            out.as_chunks_mut().0.iter_mut().zip(&*values).for_each(|(to, from)| *to = from.to_ne_bytes());
        });
        Ok(())
    })
}

/// Replaces a parameter with values of a type of the caller's choice: every value exactly where the layer's
/// type can hold it, else rounded to nearest. Caches stay as they are.
///
/// name: as in lm_parameter_info, or its other name.
/// dtype: an LM_DTYPE_ value; DEFAULT is the parameter's own type.
/// values: the values, at any alignment.
/// bytes: the size of the parameter's values in that type, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another size; LM_ERR_INVALID_ARGUMENT for
/// no LM_DTYPE_ value; LM_ERR_OUT_OF_MEMORY.
/// One thread at a time, with no other use of the layer meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_set_parameter_typed(
    layer: *mut lm_layer,
    name: *const c_char,
    dtype: u32,
    values: *const c_void,
    bytes: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object_mut(layer, "layer")?;
        let name = string(name, "name")?;
        let given = slice(values.cast::<u8>(), bytes, "values")?;
        with_dtype!(typed(layer, name, dtype)?, T => {
            let mut values = typed_values::<T>(layer, name, bytes)?;
            let given = given.as_chunks().0.iter().map(|bytes| T::from_ne_bytes(*bytes));
            values.iter_mut().zip(given).for_each(|(to, from)| *to = from);
            layer.set_parameter(name, &values)
        })
    })
}

/// The type that `dtype` stands for in a parameter.
fn typed(layer: &Layer, name: &str, dtype: u32) -> Result<DType> {
    let default = [(0, "LM_DTYPE_DEFAULT", layer.parameter(name)?.dtype)];
    enumerated(dtype, &[&default[..], &DTYPES].concat(), ErrorKind::InvalidArgument, "dtype")
}

/// Room for the values of a parameter that is `bytes` bytes of `T`.
fn typed_values<T: Element>(layer: &Layer, name: &str, bytes: usize) -> Result<Buffer<T>> {
    let info = layer.parameter(name)?;
    let expected = info.count() * size_of::<T>();
    if bytes != expected {
        fail!(
            ShapeMismatch,
            "bytes is {bytes}; {name} has shape {:?} and {expected} bytes in that type",
            info.shape
        );
    }
    Buffer::zeroed(name, info.count())
}

/// Creates a layer from a safetensors file. Freed by lm_destroy.
///
/// Tensors are named as in the reference's state dict, each after the prefix. Of two names for one tensor
/// either alone is enough; if the file has both they must agree. The configuration is config if given, and
/// is then checked against the shapes; else the file's metadata `lite_mamba.config`, which lm_save and the
/// exporter write; with neither, only a layer of LM_VARIANT_BASELINE loads, all its sizes taken from the
/// shapes.
///
/// path: the file.
/// prefix: what the layer's names begin with in the file, with or without a dot at the end, such as
///         "layers.0.mixer"; NULL for none.
/// config: NULL to take it from the file.
/// layer: receives the handle.
///
/// LM_ERR_IO for a file that cannot be read or does not exist; LM_ERR_FORMAT for one that is cut short or
/// damaged; LM_ERR_NOT_FOUND for a missing tensor, or a prefix that no name begins with; LM_ERR_FORMAT for
/// an unknown tensor, or two that contradict each other; LM_ERR_SHAPE_MISMATCH for a tensor of another
/// shape; LM_ERR_UNSUPPORTED for one of a type that cannot be converted; LM_ERR_INVALID_CONFIG;
/// LM_ERR_OUT_OF_MEMORY. The message names the tensor.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_load(
    path: *const c_char,
    prefix: *const c_char,
    config: *const lm_config,
    layer: *mut *mut lm_layer,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let path = Path::new(string(path, "path")?);
        let prefix = optional_string(prefix, "prefix")?;
        let config = if config.is_null() { None } else { Some(from_c(config)?) };
        check(layer, "layer")?;
        give(weights::load(path, prefix, config.as_ref())?, layer);
        Ok(())
    })
}

/// lm_load from a file's content in memory, which is not kept.
///
/// data: size bytes, at any alignment.
///
/// Errors as lm_load.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_load_memory(
    data: *const c_void,
    size: usize,
    prefix: *const c_char,
    config: *const lm_config,
    layer: *mut *mut lm_layer,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let data = slice(data.cast::<u8>(), size, "data")?;
        let prefix = optional_string(prefix, "prefix")?;
        let config = if config.is_null() { None } else { Some(from_c(config)?) };
        check(layer, "layer")?;
        give(weights::load_memory(data, prefix, config.as_ref())?, layer);
        Ok(())
    })
}

/// Writes a layer to a safetensors file that lm_load and the reference's load_state_dict read, its
/// configuration in the metadata `lite_mamba.config`. An existing file is replaced.
///
/// LM_ERR_IO when it cannot be written.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_save(layer: *const lm_layer, path: *const c_char) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        weights::save(layer, Path::new(string(path, "path")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tensor_info_cannot_hold_is_an_error() {
        let info = tensor_info(&"n".repeat(63), &[1, 2, 3, 4], DType::F32, true, 9).unwrap();
        assert_eq!((info.struct_size, info.ndim, info.shape, info.count), (9, 4, [1, 2, 3, 4], 24));
        assert_eq!(info.name, std::array::from_fn(|i| if i < 63 { b'n' as c_char } else { 0 }));
        for (name, shape) in [("n".repeat(64), &[1][..]), ("n".to_owned(), &[1; 5])] {
            let error = tensor_info(&name, shape, DType::F32, true, 9).err().expect("too large");
            assert_eq!(error.kind(), ErrorKind::Internal);
        }
    }
}
