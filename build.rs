//! Linker arguments of the shared library, and the packed kernels of the feature `cuda`.

use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    match os.as_str() {
        "macos" => link_arg(&format!("-install_name,@rpath/liblite_mamba.{}.dylib", abi_version())),
        "linux" => {
            link_arg(&format!("-soname,liblite_mamba.so.{}", abi_version()));
            // The worker threads outlive a `dlclose`: the library must stay mapped.
            link_arg("-z,nodelete");
        }
        _ => {}
    }
    #[cfg(feature = "cuda")]
    for part in ["layer", "steps", "early_steps"] {
        ["f32", "bf16", "f16"].into_iter().for_each(|storage| pack(&format!("{part}.{storage}")));
    }
}

/// Writes a file of kernels as the library holds it: deflated to a fifth.
#[cfg(feature = "cuda")]
fn pack(name: &str) {
    let source = format!("src/cuda/kernels/{name}.ptx");
    println!("cargo:rerun-if-changed={source}");
    let packed = miniz_oxide::deflate::compress_to_vec(&fs::read(&source).expect(&source), 9);
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(format!("{out}/{name}.ptx.deflate"), packed).expect("room");
}

fn link_arg(arg: &str) {
    println!("cargo:rustc-cdylib-link-arg=-Wl,{arg}");
}

/// LM_ABI_VERSION, of which there is to be one place.
fn abi_version() -> u32 {
    const SOURCE: &str = "src/ffi/library.rs";
    println!("cargo:rerun-if-changed={SOURCE}");
    let source = fs::read_to_string(SOURCE).expect(SOURCE);
    let (_, rest) = source.split_once("pub const LM_ABI_VERSION: u32 = ").expect("LM_ABI_VERSION");
    rest.split_once(';').and_then(|(number, _)| number.parse().ok()).expect("its number")
}
