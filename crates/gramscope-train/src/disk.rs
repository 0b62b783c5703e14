//! What the system's errors say of disks.

use std::io::{self, ErrorKind};

/// Whether `reason` is that of a disk that takes nothing more, from whomever.
pub(crate) fn takes_nothing(reason: &io::Error) -> bool {
    is_full(reason) || reason.kind() == ErrorKind::ReadOnlyFilesystem
}

/// What mends `reason`, to be appended to a message; nothing where that is not known.
pub fn remedy(reason: &io::Error) -> &'static str {
    if is_full(reason) { "; make room there" } else { "" }
}

fn is_full(reason: &io::Error) -> bool {
    matches!(reason.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
