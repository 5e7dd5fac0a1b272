"""Where the shared library is looked for, and what is said when it is not there."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lite_mamba_native import _abi, _library

SHOW = "import lite_mamba_native._library as library; print(library.lib._name)"
LIBRARY = Path(os.environ.get("LITE_MAMBA_LIBRARY", _library.lib._name))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of Linux")


def run(**environment):
    """Imports the package in a new process where only these variables say where the library is."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LITE_MAMBA_LIBRARY", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "PKG_CONFIG")
    }
    environment = {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-c", SHOW]
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True)


def found(**environment):
    result = run(**environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def not_found(**environment):
    result = run(**environment)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    return result.stderr


def test_the_variable_names_the_file():
    assert found(LITE_MAMBA_LIBRARY=LIBRARY) == str(LIBRARY)


def test_the_loader_finds_it():
    assert found(LD_LIBRARY_PATH=LIBRARY.parent) == "liblite_mamba.so.1"


def test_pkg_config_finds_it(tmp_path):
    (tmp_path / "lite_mamba.pc").write_text(
        f"libdir={LIBRARY.parent}\nName: lite_mamba\nDescription: elsewhere\nVersion: 1\n"
    )
    assert found(PKG_CONFIG_PATH=tmp_path) == str(LIBRARY.parent / "liblite_mamba.so.1")


def test_the_variable_goes_before_all_others():
    message = not_found(LITE_MAMBA_LIBRARY="/nowhere/lite.so", LD_LIBRARY_PATH=LIBRARY.parent)
    assert "/nowhere/lite.so: cannot open shared object file" in message


def test_nowhere():
    message = not_found(PKG_CONFIG="no-pkg-config")
    assert "LITE_MAMBA_LIBRARY is not set" in message
    assert "liblite_mamba.so.1: cannot open shared object file" in message
    assert "no-pkg-config: No such file or directory" in message
    assert "set LITE_MAMBA_LIBRARY to the file" in message


def test_pkg_config_does_not_know_it():
    message = not_found(PKG_CONFIG="false")
    assert "false --variable=libdir lite_mamba: failed" in message


def test_another_library():
    message = not_found(LITE_MAMBA_LIBRARY=ctypes.util.find_library("m"))
    assert "is no lite-mamba library: it has no lm_abi_version" in message


def test_another_abi(monkeypatch):
    monkeypatch.setenv("LITE_MAMBA_LIBRARY", str(LIBRARY))
    monkeypatch.setattr(_abi, "ABI_VERSION", 2)
    with pytest.raises(ImportError, match="has ABI version 1, lite_mamba_native needs 2"):
        _library.open_library()


def test_an_old_library(monkeypatch):
    monkeypatch.setenv("LITE_MAMBA_LIBRARY", str(LIBRARY))
    monkeypatch.setitem(_abi.PROTOTYPES, "lm_new", (None,))
    with pytest.raises(ImportError, match="is too old: it has no lm_new"):
        _library.open_library()


def test_calls_let_go_of_the_gil():
    assert not _library.lib._FuncPtr._flags_ & ctypes._FUNCFLAG_PYTHONAPI
