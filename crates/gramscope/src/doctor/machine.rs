//! What this machine has.

#[cfg(feature = "cuda")]
use std::sync::Arc;

use anyhow::Context;
use gramscope_cuda::{Bytes, Device, Error};

use super::Report;
use crate::device::DeviceChoice;

/// A GPU that is to be checked.
#[cfg(feature = "cuda")]
type Gpu = Arc<Device>;
#[cfg(not(feature = "cuda"))]
type Gpu = Device;

/// Program, processor and memory.
pub(super) fn describe(report: &Report<'_>) {
    report.heading("Machine");
    let cuda = if cfg!(feature = "cuda") { "with CUDA" } else { "without CUDA" };
    report.fact("gramscope", &format!("{}, built {cuda}", env!("CARGO_PKG_VERSION")));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = proc_value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    report.fact("CPU", &format!("{name}, {cores} threads"));
    if let Some(memory) = proc_value("/proc/meminfo", "MemTotal").as_deref().and_then(kibibytes) {
        report.fact("memory", &Bytes(memory).to_string());
    }
}

/// The first value of `key` in a file of `key: value` lines.
fn proc_value(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?.1;
    Some(value.trim().to_owned())
}

/// The bytes of "123 kB".
fn kibibytes(text: &str) -> Option<u64> {
    Some(text.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The GPU that `choice` names, described; none, and why, where `choice` leaves that open.
///
/// # Errors
/// A GPU that was named and cannot be opened.
pub(super) fn gpu(choice: DeviceChoice, report: &Report<'_>) -> anyhow::Result<Option<Gpu>> {
    let opened = match choice {
        DeviceChoice::Cpu => {
            report.fact("GPU", "not checked: --device cpu");
            return Ok(None);
        }
        DeviceChoice::Auto => Device::open(0),
        DeviceChoice::Cuda(number) => Device::open(number),
    };
    match opened {
        Ok(device) => Ok(Some(found(device, report)?)),
        Err(reason) if choice == DeviceChoice::Auto => {
            report.fact("GPU", &format!("not checked: {reason}"));
            Ok(None)
        }
        Err(reason) => Err(reason).with_context(|| format!("--device {choice}")),
    }
}

#[cfg(feature = "cuda")]
fn found(device: Device, report: &Report<'_>) -> Result<Gpu, Error> {
    let properties = device.properties();
    let (free, total) = device.memory()?;
    report.fact("GPU", &format!("cuda:{} {}", properties.number, properties.name));
    report.fact("driver", &format!("CUDA {}", properties.driver));
    report.fact("capability", &properties.capability.to_string());
    report.fact("processors", &properties.multiprocessors.to_string());
    report.fact("GPU memory", &format!("{}, {} free", Bytes(total), Bytes(free)));
    report.fact("L2 cache", &Bytes(properties.cache_bytes).to_string());
    Ok(Arc::new(device))
}

#[cfg(not(feature = "cuda"))]
fn found(device: Device, _: &Report<'_>) -> Result<Gpu, Error> {
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kibibytes() {
        assert_eq!(kibibytes("24 kB"), Some(24 * 1024));
        assert_eq!(kibibytes("24"), None);
    }
}
