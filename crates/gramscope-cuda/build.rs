//! With the feature `cuda`: compiles every family of kernels/ into one fatbin, keeps ptxas's report of registers, shared
//! memory and spills beside it in OUT_DIR, and fails on warnings and on spills; and compiles src/nvtx.c. Without it: nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt::Write as _, fs, thread};

/// Machine code for 8.0 and 9.0 and, for GPUs newer than those, PTX. Not 9.0a: its code runs on no more GPUs than 9.0's, its PTX on
/// Hopper alone, and no kernel has an instruction that wants it; .ci/run compiles it all the same.
const ARCHITECTURES: [&str; 2] = ["arch=compute_80,code=[sm_80,compute_80]", "arch=compute_90,code=[sm_90,compute_90]"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    if let Err(message) = find_nvcc().and_then(|nvcc| {
        compile_kernels(&nvcc)?;
        compile_ranges(&nvcc)
    }) {
        // One `error` line each: Cargo shows no others.
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// A kernels/FAMILY/FAMILY.cu.
struct Family {
    name: String,
    source: PathBuf,
}

fn compile_kernels(nvcc: &Path) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    println!("cargo::rerun-if-changed={}", root.display());
    let families = families(&root)?;
    let (root, out) = (root.as_path(), out.as_path());
    export_constants(root, out)?;
    let results: Vec<Result<(), String>> = thread::scope(|scope| {
        let compile = |family| scope.spawn(move || compile(nvcc, root, family, out));
        let running: Vec<_> = families.iter().map(compile).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread died".to_owned()))).collect()
    });
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    embed(&families, &version(nvcc)?, out)
}

/// The compiler's version: 13.0.88.
fn version(nvcc: &Path) -> Result<String, String> {
    let output =
        Command::new(nvcc).arg("--version").output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().filter_map(|word| word.strip_prefix('V')).next_back();
    version.map(str::to_owned).ok_or_else(|| format!("{} does not say its version: {text}", nvcc.display()))
}

/// The compiler: of the toolkit that the environment names, else the one on the path.
fn find_nvcc() -> Result<PathBuf, String> {
    let homes = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];
    for variable in homes {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let named = homes.iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    named.chain(on_path).find(|nvcc| nvcc.is_file()).ok_or_else(|| {
        "the feature `cuda` needs NVIDIA's nvcc, and there is none in CUDA_HOME or on PATH\n\
         scripts/cuda-toolkit.sh installs one without root: eval \"$(scripts/cuda-toolkit.sh)\""
            .to_owned()
    })
}

/// Compiles src/nvtx.c against the toolkit's headers.
fn compile_ranges(nvcc: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed=src/nvtx.c");
    let nvcc = nvcc.canonicalize().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    // Toolkits have their headers beside bin/, but Debian's in /usr/include, where the compiler looks anyway.
    let include = nvcc.ancestors().nth(2).map(|home| home.join("include")).unwrap_or_default();
    let mut build = cc::Build::new();
    // -isystem: warnings of the toolkit's headers are not ours.
    build.file("src/nvtx.c").flag("-isystem").flag(&include);
    build.try_compile("gramscope_nvtx").map_err(|error| {
        format!(
            "src/nvtx.c does not compile (it needs NVTX's headers, nvtx3/nvToolsExt.h, which lie in {} where a toolkit is \
             whole; scripts/cuda-toolkit.sh installs one): {error}",
            include.display()
        )
    })
}

fn families(root: &Path) -> Result<Vec<Family>, String> {
    let list = |dir: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        Ok(paths)
    };
    let mut families = Vec::new();
    for folder in list(root)?.into_iter().filter(|path| path.is_dir()) {
        for source in list(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "cu")) {
            let name = source.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel's file name is not UTF-8")?;
            families.push(Family { name: name.to_owned(), source });
        }
    }
    Ok(families)
}

/// Writes OUT_DIR/constants.cuh, which exports every number of kernels/common/constants.cuh from each family as one array,
/// and OUT_DIR/constants.rs, the same array as launch geometry sees it. The two are compared when a family is loaded.
fn export_constants(root: &Path, out: &Path) -> Result<(), String> {
    let path = root.join("common/constants.cuh");
    let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let names: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("constexpr int ")?.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    let listed = names.join(", ");
    let device = format!(
        "#include \"common/constants.cuh\"\nextern \"C\" {{\n__device__ unsigned int gs_constants[] = {{{listed}}};\n}}\n"
    );
    let values: Vec<String> = names.iter().map(|name| format!("crate::plan::constant({name:?})")).collect();
    let host = format!("pub(crate) const VALUES: [usize; {}] = [{}];\n", names.len(), values.join(", "));
    let write = |name: &str, text: &str| fs::write(out.join(name), text).map_err(|error| format!("{name}: {error}"));
    write("constants.cuh", &device)?;
    write("constants.rs", &host)
}

/// Compiles one family to OUT_DIR/FAMILY.fatbin and writes OUT_DIR/FAMILY.ptxas.txt.
fn compile(nvcc: &Path, root: &Path, family: &Family, out: &Path) -> Result<(), String> {
    let name = &family.name;
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-Werror", "all-warnings"]);
    command.args(["-Xptxas", "-v,-warn-spills,-Werror"]);
    command.args(ARCHITECTURES.iter().flat_map(|architecture| ["-gencode", architecture]));
    command
        .arg("-I")
        .arg(root)
        .arg("-include")
        .arg(out.join("constants.cuh"))
        .arg("-o")
        .arg(out.join(format!("{name}.fatbin")))
        .arg(&family.source);
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let report = String::from_utf8_lossy(&output.stderr);
    fs::write(out.join(format!("{name}.ptxas.txt")), report.as_bytes()).map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{} does not compile:\n{report}", family.source.display()));
    }
    match spills(&report) {
        spills if spills.is_empty() => Ok(()),
        spills => Err(format!("{} spills registers: {}", family.source.display(), spills.join(", "))),
    }
}

/// The entries that ptxas reports spills of.
fn spills(report: &str) -> Vec<String> {
    let mut entry = "?";
    let mut found = Vec::new();
    for line in report.lines() {
        if let Some(quoted) = line.split("Compiling entry function '").nth(1) {
            entry = quoted.split("' for").next().unwrap_or(entry);
        }
        if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads") {
            found.push(format!("{entry} ({})", line.trim()));
        }
    }
    found
}

/// Writes OUT_DIR/images.rs: a static a family and, for tests, all of them and the compiler's version.
fn embed(families: &[Family], version: &str, out: &Path) -> Result<(), String> {
    let mut source = String::new();
    for Family { name, .. } in families {
        let _ = writeln!(
            source,
            "pub(crate) static {}: Image = Image {{ family: {name:?}, fatbin: include_bytes!(concat!(env!(\"OUT_DIR\"), \
             \"/{name}.fatbin\")), #[cfg(test)] report: include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptxas.txt\")) \
             }};",
            name.to_uppercase()
        );
    }
    let all: Vec<String> = families.iter().map(|family| format!("&{}", family.name.to_uppercase())).collect();
    let _ = writeln!(source, "#[cfg(test)]\npub(crate) static ALL: &[&Image] = &[{}];", all.join(", "));
    let _ = writeln!(source, "#[cfg(test)]\npub(crate) static NVCC: &str = {version:?};");
    fs::write(out.join("images.rs"), source).map_err(|error| format!("images.rs: {error}"))
}
