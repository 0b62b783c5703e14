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
