//! Compiles every kernels/**/*.cu, and the kernels that prove the emulation itself, with the host's C++ compiler.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let (emulation, kernels) = (here.join("emulation"), here.join("../../kernels"));
    let mut sources = Vec::new();
    for folder in [&emulation.join("proofs"), &kernels] {
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(folder, &mut sources);
    }
    println!("cargo::rerun-if-changed={}", emulation.display());
    sources.sort();

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(3).include(&emulation).include(&kernels).include(&here);
    build.flag_if_supported("-Wno-unknown-pragmas");
    if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" && variable("CARGO_CFG_TARGET_FEATURE").contains("avx2") {
        build.flag_if_supported("-march=x86-64-v3");
    }
    // A kernel must not be computed better on the host than on the device: no contraction but where it says fma.
    build.flag_if_supported("-ffp-contract=off");
    for file in ["block.cpp", "tensor_core.cpp", "launch.cpp"] {
        build.file(emulation.join(file));
    }
    let mut names = Vec::new();
    for source in &sources {
        let text = fs::read_to_string(source).expect("a kernel's source cannot be read");
        let entries = entries(&text);
        build.file(write_wrapper(&out, source, &entries));
        names.extend(entries.into_iter().map(|entry| entry.name));
    }
    build.file(write_table(&out, &names));
    build.compile("gramscope_emulation");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the kernels' folder cannot be read") {
        let path = entry.expect("the kernels' folder cannot be read").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
}

/// What stands behind `__global__`.
struct Entry {
    /// gs_<family>_<variant>_<dtype>.
    name: String,
    /// What `__launch_bounds__` is given; none where it does not stand there.
    bounds: Option<String>,
}

fn entries(source: &str) -> Vec<Entry> {
    let entry = |text: &str| {
        let start = text.find("gs_").expect("an entry whose name does not begin with gs_");
        let name = text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let bounds = text[..start].split_once("__launch_bounds__(").map(|(_, rest)| {
            let end = rest.rfind(')').expect("launch bounds that do not end");
            rest[..end].to_owned()
        });
        Entry { name, bounds }
    };
    source.split("extern \"C\" __global__").skip(1).map(entry).collect()
}

/// A C++ file that includes the kernels and defines an `Entry` for each.
fn write_wrapper(out: &Path, source: &Path, entries: &[Entry]) -> PathBuf {
    let stem = source.file_stem().expect("a kernel's file has a name").to_string_lossy();
    let mut text = format!("#include \"entries.h\"\n#include \"{}\"\n\nnamespace emulation {{\n", source.display());
    for Entry { name, bounds } in entries {
        let threads = bounds.as_ref().map_or("MAX_THREADS".to_owned(), |bounds| format!("bound({bounds})"));
        text += &format!(
            "extern const Entry entry_{name};\n\
             const Entry entry_{name} = Entered<{name}>::entry(\"{name}\", \"{stem}\", {threads});\n"
        );
    }
    text += "}  // namespace emulation\n";
    let path = out.join(format!("{stem}.cpp"));
    fs::write(&path, text).expect("the build folder cannot be written");
    path
}

/// The list of all entries.
fn write_table(out: &Path, names: &[String]) -> PathBuf {
    let mut text = String::from("#include \"entries.h\"\n\nnamespace emulation {\n");
    for name in names {
        text += &format!("extern const Entry entry_{name};\n");
    }
    text +=
        "extern const Entry* const entries[];\nextern const size_t entry_count;\nconst Entry* const entries[] = {\n";
    for name in names {
        text += &format!("    &entry_{name},\n");
    }
    text += &format!("}};\nconst size_t entry_count = {};\n}}  // namespace emulation\n", names.len());
    let path = out.join("entries.cpp");
    fs::write(&path, text).expect("the build folder cannot be written");
    path
}
