//! The README says what the code says.

use std::fs;

use lite_mamba::{Config, Variant};

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path)
}

/// Every word of `text` that begins with `prefix`, to the end of its name.
fn names<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|word| word.starts_with(prefix)).collect()
}

/// The first program of a language in a text.
fn program(text: &str, language: &str) -> String {
    let (_, rest) = text.split_once(&format!("```{language}\n")).expect("a program");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Those that the tests of each language compile and run.
#[test]
fn programs_are_those_that_are_tested() {
    let readme = read("README.md");
    for (language, file) in [
        ("c", "examples/c/stream.c"),
        ("cpp", "bindings/cpp/examples/streaming.cpp"),
        ("python", "bindings/python/examples/token_by_token.py"),
    ] {
        assert_eq!(program(&readme, language), read(file), "README.md beside {file}");
    }
    for (language, file) in [("go", "bindings/go/README.md"), ("swift", "bindings/swift/README.md")] {
        assert_eq!(program(&readme, language), program(&read(file), language), "README.md beside {file}");
    }
}

#[test]
fn defaults_are_those_of_the_code() {
    let readme = read("README.md");
    let c = Config::new(Variant::Ptcn, 1);
    for row in [
        format!("| `d_state` | {} |", c.d_state),
        format!("| `d_conv` | {} |", c.d_conv),
        format!("| `conv_dilations`, `num_conv_dilations` | {{{}}}, 1 |", c.conv_dilations[0]),
        format!("| `expand` | {:?} |", c.expand),
        format!("| `dt_rank` | {} |", c.dt_rank.unwrap_or(0)),
        format!("| `dt_min`, `dt_max` | {:?}, {:?} |", c.dt_min, c.dt_max),
        format!("| `dt_scale` | {:?} |", c.dt_scale),
        format!("| `dt_init_floor` | {} |", c.dt_init_floor),
        format!("| `conv_bias` | {} |", c.conv_bias),
        format!("| `bias` | {} |", c.bias),
        format!("| `use_fast_path` | {} |", c.use_fast_path),
        format!("| `layer_idx` | {} |", c.layer_idx.map_or(-1, |i| i as i64)),
        format!("| `seed` | {} |", c.seed),
    ] {
        assert!(readme.contains(&row), "no row {row}");
    }
}

#[test]
fn every_name_exists() {
    let (readme, header) = (read("README.md"), read("include/lite_mamba.h"));
    let known = [names(&header, "lm_"), names(&header, "LM_")].concat();
    for name in [names(&readme, "lm_"), names(&readme, "LM_")].concat() {
        assert!(known.contains(&name), "the README speaks of {name}");
    }
    let environment = read("src/environment.rs");
    let mut variables = names(&environment, "LITE_MAMBA_");
    let mut documented = names(&readme, "LITE_MAMBA_");
    for list in [&mut variables, &mut documented] {
        list.sort_unstable();
        list.dedup();
    }
    assert_eq!(documented, variables);
    // Links to files lead somewhere; what looks like one inside a program is none.
    let prose: String = readme.split("```").step_by(2).collect();
    for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(fs::exists(format!("{}/{link}", env!("CARGO_MANIFEST_DIR"))).unwrap(), "no file {link}");
    }
}
