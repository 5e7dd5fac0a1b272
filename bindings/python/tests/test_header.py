"""The binding against the header of the installation: it must say the same, and leave nothing out."""

import ctypes
import enum
import re
from pathlib import Path
from typing import get_args

import pytest
from support import HEADER

import lite_mamba_native
from lite_mamba_native import _abi, _config

# Functions that the binding does not call, and why. The README repeats this list: it is empty.
NOT_CALLED = {}

ENUMS = {
    "lm_status_code": (_abi.Status, ("LM_ERR_", "LM_")),
    "lm_variant": (_abi.Variant, ("LM_VARIANT_",)),
    "lm_dtype": (_abi.DType, ("LM_DTYPE_",)),
    "lm_device": (_abi.Device, ("LM_DEVICE_",)),
    "lm_math": (_abi.Math, ("LM_MATH_",)),
    "lm_dt_init": (_abi.DtInit, ("LM_DT_INIT_",)),
}
TYPES = {
    "void": None,
    "bool": ctypes.c_bool,
    "double": ctypes.c_double,
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "lm_status": ctypes.c_int32,
    "char*": ctypes.c_char_p,
    "void*": ctypes.c_void_p,
    "float*": ctypes.c_void_p,
    # As an argument: of any alignment that numpy gives. As a field, see below.
    "size_t*": ctypes.c_void_p,
    "size_t**": ctypes.POINTER(ctypes.c_size_t),
    "lm_layer*": ctypes.c_void_p,
    "lm_cache*": ctypes.c_void_p,
    "lm_inference_params*": ctypes.c_void_p,
    "lm_layer**": ctypes.POINTER(ctypes.c_void_p),
    "lm_cache**": ctypes.POINTER(ctypes.c_void_p),
    "lm_inference_params**": ctypes.POINTER(ctypes.c_void_p),
    "lm_config*": ctypes.POINTER(_abi.Config),
    "lm_tensor_info*": ctypes.POINTER(_abi.TensorInfo),
    "DLTensor*": ctypes.POINTER(_abi.DLTensor),
    # Fields of DLPack's structs.
    "uint8_t": ctypes.c_uint8,
    "uint16_t": ctypes.c_uint16,
    "int64_t*": ctypes.POINTER(ctypes.c_int64),
    "DLDeviceType": ctypes.c_int32,
    "DLDevice": _abi.DLDevice,
    "DLDataType": _abi.DLDataType,
    "DLPackVersion": _abi.DLPackVersion,
    "DLTensor": _abi.DLTensor,
}


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


CODE = without_comments(HEADER)


def enums_of(code):
    return {
        name: {key: int(value) for key, value in re.findall(r"(LM_\w+)\s*=\s*(\d+)", body)}
        for body, name in re.findall(r"typedef enum \w+ \{(.*?)\} (\w+);", code, re.DOTALL)
    }


def c_type(words):
    """A type without `const` and spaces."""
    return re.sub(r"\bconst\b|\s", "", words)


def functions_of(code):
    """What every function returns and takes, by its name. One size_t that is written is a `size_t**`."""
    functions = {}
    for result, name, arguments in re.findall(r"LM_API\s+([\w\s*]+?)(lm_\w+)\(([^)]*)\);", code):
        arguments = re.sub(r"(?<!const )\bsize_t \*", "size_t **", arguments)
        taken = [] if arguments.strip() == "void" else arguments.split(",")
        # The last word of an argument is its name.
        functions[name] = [c_type(result), *(c_type(re.sub(r"\w+$", "", a.strip())) for a in taken)]
    return functions


def fields_of(code, struct):
    # With its name before, or behind where it is a typedef, or both.
    body = re.search(rf"struct {struct} \{{([^{{}}]*)\}}|typedef struct \{{([^{{}}]*)\}} {struct};", code)
    body = body[1] or body[2]
    for declaration in filter(None, map(str.strip, body.split(";"))):
        pointed = re.fullmatch(r"void \(\*(\w+)\)\([^)]*\)", declaration)
        if pointed:
            yield pointed[1], "void*", None
            continue
        words, name, length = re.fullmatch(r"(.*?)(\w+)(?:\[(\d+)\])?", declaration, re.DOTALL).groups()
        yield name, c_type(words), length


def members(cls: type[enum.IntEnum], prefixes, names):
    """The binding's values under the header's names; a member without one keeps its own."""
    by_name = {re.sub("^" + "|^".join(prefixes), "", name): name for name in names}
    return {by_name.get(member.name, member.name): int(member) for member in cls}


def test_every_enum_of_the_header_is_known():
    assert enums_of(CODE).keys() == ENUMS.keys()


@pytest.mark.parametrize("name", ENUMS)
def test_enumerated_values_are_the_headers(name):
    values = enums_of(CODE)[name]
    assert values
    assert members(*ENUMS[name], values) == values


@pytest.mark.parametrize(
    ("field", "cls", "literal"),
    [
        ("variant", _abi.Variant, _config.Variant),
        ("dtype", _abi.DType, _config.DType),
        ("device", _abi.Device, _config.Device),
        ("math", _abi.Math, _config.Math),
        ("dt_init", _abi.DtInit, _config.DtInit),
    ],
)
def test_every_enumerated_value_has_a_text(field, cls, literal):
    texts = _config.TEXTS[field]
    # DEFAULT is no type that a layer can have.
    assert set(texts.values()) == set(cls) - {_abi.DType.DEFAULT if cls is _abi.DType else None}
    assert set(texts) == set(get_args(literal))


def test_every_function_is_declared_as_in_the_header():
    functions = functions_of(CODE)
    assert len(functions) == CODE.count("LM_API") - HEADER_LM_API_DEFINITIONS
    expected = {name: tuple(TYPES[t] for t in types) for name, types in functions.items()}
    assert expected == _abi.PROTOTYPES


# `#define LM_API` three times, `#ifndef LM_API` once.
HEADER_LM_API_DEFINITIONS = 4


def test_every_function_is_called():
    package = Path(lite_mamba_native.__file__).parent
    source = "".join(path.read_text() for path in package.glob("*.py"))
    called = set(re.findall(r"\b(?:lib|library)\.(lm_\w+)", source))
    assert called | NOT_CALLED.keys() == functions_of(CODE).keys()


@pytest.mark.parametrize(
    ("struct", "cls"),
    [
        ("lm_config", _abi.Config),
        ("lm_tensor_info", _abi.TensorInfo),
        ("DLDevice", _abi.DLDevice),
        ("DLDataType", _abi.DLDataType),
        ("DLTensor", _abi.DLTensor),
        ("DLPackVersion", _abi.DLPackVersion),
        ("DLManagedTensorVersioned", _abi.DLManagedTensorVersioned),
    ],
)
def test_structs_have_the_headers_fields(struct, cls):
    expected = []
    for name, words, length in fields_of(CODE, struct):
        if words == "size_t*":
            expected.append((name, ctypes.POINTER(ctypes.c_size_t)))
        else:
            single = ctypes.c_char if words == "char" else TYPES[words]
            expected.append((name, single * int(length) if length else single))
    assert tuple(expected) == cls._fields_


def test_versions():
    assert int(re.search(r"define LM_ABI_VERSION (\d+)", CODE).group(1)) == _abi.ABI_VERSION
    assert int(re.search(r"define DLPACK_MAJOR_VERSION (\d+)", CODE).group(1)) == _abi.DLPACK_MAJOR_VERSION
    assert f"BITMASK_READ_ONLY (1UL << {_abi.DLPACK_FLAG_BITMASK_READ_ONLY - 1}UL)" in CODE
    assert re.search(r'define LM_VERSION "(.*)"', CODE).group(1) == lite_mamba_native.library_version()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LM_ERR_INTERNAL = 12", "LM_ERR_INTERNAL = 13"),
        ("LM_ERR_INTERNAL = 12,", "LM_ERR_INTERNAL = 12, LM_ERR_NEW = 13,"),
        ("LM_ERR_IO = 7,", ""),
    ],
)
def test_a_change_of_values_is_seen(old, new):
    assert old in CODE
    values = enums_of(CODE.replace(old, new))["lm_status_code"]
    assert members(*ENUMS["lm_status_code"], values) != values


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LM_API size_t lm_d_inner(const lm_layer *layer);", ""),
        (
            "lm_d_inner(const lm_layer *layer);",
            "lm_d_inner(const lm_cache *cache);".replace("cache *cache", "config *c"),
        ),
        ("LM_API size_t lm_d_inner", "LM_API uint32_t lm_d_inner"),
        ("LM_API size_t lm_d_inner", "LM_API void lm_new(void);\nLM_API size_t lm_d_inner"),
    ],
)
def test_a_change_of_functions_is_seen(old, new):
    assert old in CODE
    functions = functions_of(CODE.replace(old, new))
    assert {name: tuple(TYPES[t] for t in types) for name, types in functions.items()} != _abi.PROTOTYPES
