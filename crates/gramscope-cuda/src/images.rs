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

    #[test]
    fn images_are_fatbins() {
        for image in ALL {
            assert_eq!(image.fatbin[..4], 0xBA55_ED50_u32.to_le_bytes(), "{}", image.family);
        }
    }
}
