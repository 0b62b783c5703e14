//! The compiled kernels, one fatbin a family, as the build script left them.

/// A family's machine code and PTX.
pub(crate) struct Image {
    /// The family's name.
    pub(crate) family: &'static str,
    /// What nvcc made of it.
    pub(crate) fatbin: &'static [u8],
    /// What ptxas said about its entries: registers, shared memory, spills.
    #[cfg(test)]
    pub(crate) report: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    /// ptxas's report of one entry for one architecture.
    fn reports(image: &Image) -> Vec<&'static str> {
        image.report.split("Compiling entry function '").skip(1).collect()
    }

    #[test]
    fn every_entry_is_compiled_for_both_architectures_and_spills_nothing() {
        for image in ALL {
            let reports = reports(image);
            assert!(!reports.is_empty(), "{}: no entries in {}", image.family, image.report);
            for report in &reports {
                let name = report.split('\'').next().unwrap_or_default();
                for architecture in ["sm_80", "sm_90"] {
                    let compiled = format!("{name}' for '{architecture}'");
                    assert!(reports.iter().any(|report| report.starts_with(&compiled)), "{compiled} is missing");
                }
                assert!(report.contains(" 0 bytes spill stores, 0 bytes spill loads"), "{report}");
            }
        }
    }

    /// The registers that ptxas has given an entry on an architecture.
    fn registers(entry: &str, architecture: &str) -> Option<&'static str> {
        let of_entry = format!("{entry}' for '{architecture}'");
        let report = ALL.iter().flat_map(|image| reports(image)).find(|report| report.starts_with(&of_entry))?;
        report.split("Used ").nth(1)?.split(' ').next()
    }

    /// Those of kernels/README.md, which says what compiled them; another compiler gives others.
    #[test]
    fn documented_registers_are_those_of_this_build() {
        const DOCUMENT: &str = include_str!("../../../kernels/README.md");
        if !DOCUMENT.contains(&format!("nvcc {NVCC},")) {
            println!("skipped: kernels/README.md is about another nvcc than {NVCC}");
            return;
        }
        let rows: Vec<Vec<&str>> = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| gs_"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert!(rows.len() > 50, "{} rows", rows.len());
        let mut wrong = Vec::new();
        for row in rows {
            let [_, entry, sm_80, sm_90, threads, shared, _] = row[..] else { panic!("{row:?}") };
            let found =
                ["sm_80", "sm_90"].map(|architecture| registers(entry, architecture).unwrap_or("no such entry"));
            if found != [sm_80, sm_90] {
                wrong.push(format!("| {entry} | {} | {} | {threads} | {shared} |", found[0], found[1]));
            }
        }
        assert!(wrong.is_empty(), "kernels/README.md is to say:\n{}", wrong.join("\n"));
    }

    #[test]
    fn images_are_fatbins() {
        for image in ALL {
            assert_eq!(image.fatbin[..4], 0xBA55_ED50_u32.to_le_bytes(), "{}", image.family);
        }
    }
}
