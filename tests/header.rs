//! `include/lite_mamba.h` is what cbindgen makes of `src/ffi`: this test fails when the two drift apart,
//! and with `LITE_MAMBA_UPDATE_HEADER=1` in the environment (`make header`) it writes the header instead.

use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config};

/// The sections of the header, each a module of `src/ffi`.
const SECTIONS: [&str; 8] =
    ["types", "library", "config", "layer", "streaming", "inference", "parameters", "dlpack"];

const MACROS: &str = r#"#ifndef LITE_MAMBA_H
#define LITE_MAMBA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

@DLPACK@
/* The version of this header. */
#define LM_VERSION_MAJOR @MAJOR@
#define LM_VERSION_MINOR @MINOR@
#define LM_VERSION_PATCH @PATCH@
#define LM_VERSION "@MAJOR@.@MINOR@.@PATCH@"

/* Marks every function. Define LM_STATIC to link the static library on Windows. */
#ifndef LM_API
#if defined(_WIN32) && !defined(LM_STATIC)
#define LM_API __declspec(dllimport)
#elif defined(__GNUC__)
#define LM_API __attribute__((visibility("default")))
#else
#define LM_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif
"#;

const END: &str = "
#ifdef __cplusplus
} /* extern \"C\" */
#endif

#endif /* LITE_MAMBA_H */
";

#[test]
fn header_is_up_to_date() {
    let path = root().join("include/lite_mamba.h");
    let header = generate();
    if std::env::var_os("LITE_MAMBA_UPDATE_HEADER").is_some() {
        fs::write(&path, header).unwrap();
        return;
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    let drift = checked_in.lines().zip(header.lines()).position(|(have, want)| have != want);
    assert!(
        checked_in == header,
        "include/lite_mamba.h is not what src/ffi says (line {}): run `make header`",
        drift.map_or(checked_in.lines().count().min(header.lines().count()), |line| line + 1)
    );
}

/// The conventions (the documentation of `src/ffi/mod.rs`), DLPack's structs, which are no work of cbindgen, and
/// one section per module, headed by that module's documentation.
fn generate() -> String {
    let macros = MACROS
        .replace("@DLPACK@", include_str!("../src/ffi/dlpack.h"))
        .replace("@MAJOR@", env!("CARGO_PKG_VERSION_MAJOR"))
        .replace("@MINOR@", env!("CARGO_PKG_VERSION_MINOR"))
        .replace("@PATCH@", env!("CARGO_PKG_VERSION_PATCH"));
    let mut header = comment("mod") + &macros;
    for module in SECTIONS {
        header += &format!("\n\n{}\n{}", comment(module), declarations(module));
    }
    header + END
}

/// The `//!` lines that a module begins with, as a C comment.
fn comment(module: &str) -> String {
    let text = fs::read_to_string(source(module)).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(|line| format!(" *{line}\n"));
    format!("/*\n{} */\n", lines.collect::<String>())
}

/// What cbindgen makes of one module.
fn declarations(module: &str) -> String {
    let config = Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut text = Vec::new();
    Builder::new().with_config(config).with_src(source(module)).generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap().trim().to_owned() + "\n"
}

fn source(module: &str) -> PathBuf {
    root().join("src/ffi").join(module).with_extension("rs")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
