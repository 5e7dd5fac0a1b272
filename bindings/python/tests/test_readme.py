"""The README shows programs that run, and names that are there."""

import re

from support import ROOT

import lite_mamba_native

README = (ROOT / "bindings/python/README.md").read_text()


def test_the_streaming_program_is_the_example():
    assert f"```python\n{(ROOT / 'bindings/python/examples/stream.py').read_text()}```" in README


def test_python_in_it_compiles():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_name_is_there():
    attributes = set(re.findall(r"\b(?:layer|cache)\.(\w+)\(", README))
    assert attributes >= {"forward", "forward_varlen", "step", "save"}
    for name in attributes:
        assert hasattr(lite_mamba_native.Layer, name) or hasattr(lite_mamba_native.Cache, name), name
    for name in lite_mamba_native.__all__:
        assert hasattr(lite_mamba_native, name)
