//! Why a layer on a GPU cannot be had, told in a sentence: with a driver and a cuBLASLt that are made to fail
//! (`tests/fake_cuda`), so that no GPU is needed, and none is touched where there is one.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use lite_mamba::{Cache, Config, Device, ErrorKind, Layer, Tokens, Variant};

/// The failure, the number of the device that is asked for, and what the sentence must have.
const FAILURES: [(&str, u32, &str); 14] = [
    ("no driver", 0, "device is CUDA, but there is no CUDA driver on this machine"),
    (
        "old driver",
        0,
        "device is CUDA, but the CUDA driver is too old: it is for CUDA 11.8, and CUDA 12.0 is needed",
    ),
    ("broken driver", 0, "device is CUDA, but cuInit failed with CUDA_ERROR_UNKNOWN"),
    ("no device", 0, "device is CUDA, but the CUDA driver finds no device"),
    ("count of 0", 0, "device is CUDA, but the CUDA driver finds no device"),
    (
        "no cuBLASLt",
        0,
        "device is CUDA, but cuBLASLt, a part of the CUDA toolkit, is not where the loader looks",
    ),
    ("none", 1, "device_index is 1; the CUDA driver finds 1 device"),
    ("old device", 0, "device 0 has compute capability 7.5; 8.0 is needed"),
    ("no room for a context", 0, "the device is out of memory (cuDevicePrimaryCtxRetain)"),
    ("old PTX", 0, "the CUDA driver is too old for the kernels' PTX"),
    ("other kernels", 0, "cuModuleGetFunction failed with CUDA_ERROR_UNKNOWN"),
    ("broken cuBLASLt", 0, "cublasLtCreate failed with CUBLAS_STATUS_NOT_INITIALIZED"),
    ("no room", 0, "in_proj needs 4096 bytes, which device 0 has not free"),
    ("no room", 7, "device_index is 7; the CUDA driver finds 1 device"),
];

/// What the library may look for, in the order of what is found first.
const NAMES: [&str; 7] = ["", ".13", ".12", ".11", ".10", ".9", ".1"];

/// A folder of the loader with the two libraries; in place of one that is missing, files that are no libraries, which
/// stop the loader from looking further.
fn folder(missing: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake cuda, {missing}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda/fake_cuda.c");
    let both = folder.join("both.so");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status =
        Command::new(compiler).args(["-shared", "-fPIC", "-o"]).args([&both, &source]).status().unwrap();
    assert!(status.success(), "the C compiler: {status}");
    for library in ["cuda", "cublasLt"] {
        for name in NAMES {
            let place = folder.join(format!("lib{library}.so{name}"));
            if library == missing {
                fs::write(place, "no library").unwrap();
            } else {
                fs::copy(&both, place).unwrap();
            }
        }
    }
    folder
}

#[test]
fn every_reason_is_told() {
    let folders = ["cuda", "cublasLt", "nothing"].map(folder);
    for (failure, index, sentence) in FAILURES {
        let folder = &folders[match failure {
            "no driver" => 0,
            "no cuBLASLt" => 1,
            _ => 2,
        }];
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_child_that_creates_a_layer", "--ignored", "--nocapture"])
            .env("LD_LIBRARY_PATH", folder)
            .env("FAKE_CUDA", failure)
            .env("FAKE_CUDA_INDEX", index.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{failure}: {said}{}", String::from_utf8_lossy(&child.stderr));
        assert!(said.contains(&format!("Cuda: {sentence}\n")), "{failure}: {said}");
    }
}

#[test]
fn what_fails_after_it_has_begun_leaves_the_cache_undefined() {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_child_with_a_cache", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder("of a cache"))
        .env("FAKE_CUDA_CACHE", "")
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
}

/// As above.
#[test]
#[ignore = "a child process of another test"]
fn a_child_with_a_cache() {
    if env::var_os("FAKE_CUDA_CACHE").is_none() {
        return;
    }
    // SAFETY: nothing else runs in this process.
    let fail = |failure| unsafe { env::set_var("FAKE_CUDA", failure) };
    let layer = Layer::new(&Config { device: Device::Cuda, ..Config::new(Variant::Ptcn, 16) }).unwrap();
    let mut cache = Cache::new(&layer, 2, 0).unwrap();
    let ssm = cache.states().last().unwrap();
    let (name, values) = (ssm.name.clone(), vec![0.0_f32; ssm.shape.iter().product()]);
    let mut y = [0.0_f32; 2 * 16];
    type Use<'a> = &'a mut dyn FnMut(&mut Cache) -> lite_mamba::Result<()>;
    let step: Use<'_> =
        &mut |cache| layer.forward(Tokens::Separate { x: &[0.0; 2 * 16], y: &mut y }, 2, 1, Some(cache));
    step(&mut cache).unwrap();
    for (failure, fails) in [
        ("no kernels", step),
        ("no results", &mut |cache| {
            layer.forward(Tokens::InPlace(&mut [0.0_f32; 2 * 16]), 2, 1, Some(cache))
        }),
        ("no changes", &mut |cache| cache.set_state(&name, &values)),
        ("no changes", &mut |cache| cache.reset_lane(1)),
        ("no changes", &mut |cache| cache.copy_lane_within(1, 0)),
    ] as [(&str, Use<'_>); 5]
    {
        fail(failure);
        assert_eq!(fails(&mut cache).unwrap_err().kind(), ErrorKind::Cuda, "{failure}");
        fail("none");
        assert_eq!(fails(&mut cache).unwrap_err().kind(), ErrorKind::Internal, "after {failure}");
        cache.reset();
        fails(&mut cache).unwrap();
    }
}

/// Nothing but what a test above sets up.
#[test]
#[ignore = "a child process of another test"]
fn a_child_that_creates_a_layer() {
    let Ok(index) = env::var("FAKE_CUDA_INDEX") else { return };
    let config = Config {
        device: Device::Cuda,
        device_index: index.parse().unwrap(),
        ..Config::new(Variant::Ptcn, 16)
    };
    for _ in 0..2 {
        let error = Layer::new(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cuda);
        println!("Cuda: {error}");
    }
    // The processor is there all the same.
    Layer::new(&Config { device: Device::Cpu, ..config }).unwrap();
}
