//! A GPU: finding it, asking what it is, memory on it, time on it.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaViewMut, DevicePtr, DeviceRepr, DriverError, ValidAsZeroBits,
};

use crate::choices::Choices;
use crate::cudnn::Cudnn;
use crate::error::{Error, LEAST_CAPABILITY, OLDEST_DRIVER, Version};
use crate::launch::{check_stream, wrong};
use crate::launchers::Kernels;

/// The names under which Linux drivers install their library.
const DRIVER_LIBRARIES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// N of cuda:N.
    pub number: usize,
    /// The name its maker gave it.
    pub name: String,
    /// Its compute capability.
    pub capability: Version,
    /// The CUDA version that the driver supports.
    pub driver: Version,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_bytes: u32,
    /// The second-level cache, in bytes.
    pub cache_bytes: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

/// An open device: its context, a stream on it, and every kernel, loaded once.
///
/// The stream is its own: what is enqueued on it runs in order, and beside what other streams do.
pub struct Device {
    properties: Properties,
    /// Waited for before what its work needs goes with the fields below.
    stream: OwnStream,
    /// Where it has been asked for.
    cudnn: Option<Arc<Cudnn>>,
    kernels: Arc<Kernels>,
}

/// A device's stream, whose work is done when the device goes.
struct OwnStream(Arc<CudaStream>);

impl Drop for OwnStream {
    fn drop(&mut self) {
        insist(self.0.context(), || self.0.synchronize());
    }
}

/// Waits before something goes that a device may be using. A wait that fails may not have been one: cudarc first says what a `Drop`
/// of its own has met, on whatever thread, once, and does nothing else then; so it is waited again. Where that was all, what was said
/// is kept for whoever asks next; else the driver has said it, and would say it to them itself.
pub(crate) fn insist(context: &CudaContext, wait: impl Fn() -> Result<(), DriverError>) {
    if let Err(first) = wait()
        && wait().is_ok()
    {
        context.record_err::<()>(Err(first));
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Device").field(&self.properties).finish()
    }
}

impl Device {
    /// How many devices the driver sees.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoDevices`].
    pub fn count() -> Result<usize, Error> {
        driver_version()?;
        let count = match CudaContext::device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            Err(error) => return Err(refused("starting CUDA", error)),
        };
        if count == 0 { Err(Error::NoDevices) } else { Ok(count) }
    }

    /// Opens device `number` and loads the kernels.
    ///
    /// # Errors
    /// Those of [`Device::count`], [`Error::NoSuchDevice`], [`Error::Unsupported`], [`Error::Constants`],
    /// [`Error::Driver`].
    pub fn open(number: usize) -> Result<Self, Error> {
        let count = Self::count()?;
        if number >= count {
            return Err(Error::NoSuchDevice { number, count });
        }
        let opening = |error| refused(&format!("opening cuda:{number}"), error);
        let context = CudaContext::new(number).map_err(opening)?;
        let properties = properties(&context, number)?;
        if properties.capability < LEAST_CAPABILITY {
            let Properties { name, capability, .. } = properties;
            return Err(Error::Unsupported { number, name, capability });
        }
        // SAFETY: cudarc would order what several streams do with a buffer by an event a buffer and use, which costs time and
        // cannot be captured. It is in order without: all that is done with a buffer is done on the stream of the device that it
        // was allocated by, which is also where it is freed. The one other stream that touches buffers, that of uploads, waits for
        // that stream and is waited for by it, by events of its own.
        unsafe { context.disable_event_tracking() };
        // Not the default stream, which cannot be captured.
        let stream = context.new_stream().map_err(opening)?;
        let kernels = Arc::new(Kernels::load(&stream, properties.shared_bytes)?);
        Ok(Self { properties, stream: OwnStream(stream), cudnn: None, kernels })
    }

    /// The same device, and the same kernels, with a stream of its own: for work that goes on beside this one's. Buffers belong
    /// to the device that they were allocated by.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::Cudnn`] where cuDNN computes its convolutions.
    pub fn fork(&self) -> Result<Self, Error> {
        let stream = self.stream().context().new_stream().map_err(|error| refused("creating a stream", error))?;
        let cudnn = self.cudnn.as_ref().map(|cudnn| cudnn.fork(&stream).map(Arc::new)).transpose()?;
        let (properties, kernels) = (self.properties.clone(), self.kernels.clone());
        Ok(Self { properties, stream: OwnStream(stream), cudnn, kernels })
    }

    /// The same device, on which cuDNN computes the convolutions of networks (but for the last, linear layer). Which of its
    /// engines do it is measured where `choices` do not say, and kept there.
    ///
    /// # Errors
    /// [`Error::NoCudnn`], [`Error::CudnnTooOld`], [`Error::Cudnn`].
    pub fn with_cudnn(self, choices: Arc<dyn Choices>) -> Result<Self, Error> {
        let cudnn = Cudnn::new(self.stream(), &self.properties.name, choices)?;
        Ok(Self { cudnn: Some(Arc::new(cudnn)), ..self })
    }

    /// Whether cuDNN computes the convolutions of networks.
    pub fn has_cudnn(&self) -> bool {
        self.cudnn.is_some()
    }

    /// It, where it does.
    pub(crate) fn cudnn(&self) -> Option<&Arc<Cudnn>> {
        self.cudnn.as_ref()
    }

    /// What the device is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The name its maker gave it.
    pub fn name(&self) -> &str {
        &self.properties.name
    }

    /// The stream that everything runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream.0
    }

    /// The kernels.
    pub(crate) fn kernels(&self) -> &Arc<Kernels> {
        &self.kernels
    }

    /// (free, total) device memory, in bytes. Waits for everything on the stream: what has been dropped is given back then.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.synchronise()?;
        let memory = self.stream().context().mem_get_info();
        let (free, total) = memory.map_err(|error| refused("asking for the device's memory", error))?;
        Ok((free as u64, total as u64))
    }

    /// Device memory for `length` values, all 0; `what` is what a message about too little of it says it is for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, what: &str, length: usize) -> Result<CudaSlice<T>, Error> {
        self.stream().alloc_zeros(length).map_err(|error| self.out_of_memory(what, bytes::<T>(length), error))
    }

    /// A copy of `values` on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn upload<T: DeviceRepr>(&self, what: &str, values: &[T]) -> Result<CudaSlice<T>, Error> {
        let copy = self.stream().clone_htod(values);
        let copy = copy.map_err(|error| self.out_of_memory(what, bytes::<T>(values.len()), error))?;
        self.wait_for_copy(what)?;
        Ok(copy)
    }

    /// Copies `values` to device memory that is there already, of their length, in the order of the stream; `what` is what a
    /// message calls them.
    ///
    /// # Errors
    /// [`Error::Argument`] for another length or another stream's memory, [`Error::Driver`].
    pub fn copy_to<T: DeviceRepr>(
        &self,
        what: &'static str,
        values: &[T],
        to: &mut CudaViewMut<'_, T>,
    ) -> Result<(), Error> {
        let copying = "copying to the device";
        if values.len() != to.len() {
            return Err(wrong(copying, what, format!("{} values", values.len()), to.len()));
        }
        check_stream(copying, what, to, self.stream())?;
        if values.is_empty() {
            return Ok(());
        }
        self.stream().memcpy_htod(values, to).map_err(|error| refused(&format!("copying {what}"), error))?;
        self.wait_for_copy(what)
    }

    /// A copy of device memory on the host. Waits for everything before it on the stream.
    ///
    /// # Errors
    /// [`Error::Argument`] for another stream's memory, [`Error::Driver`]: also those of kernels that were launched before.
    pub fn download<T: DeviceRepr>(&self, values: &impl DevicePtr<T>) -> Result<Vec<T>, Error> {
        check_stream("copying to the host", "results", values, self.stream())?;
        let copy = self.stream().clone_dtoh(values).map_err(|error| refused("copying results to the host", error))?;
        self.wait_for_copy("results to the host")?;
        Ok(copy)
    }

    /// Of a copy from or to ordinary memory CUDA says no more than that it may be done when the call returns, and cudarc does not
    /// wait either.
    fn wait_for_copy(&self, what: &str) -> Result<(), Error> {
        self.stream().synchronize().map_err(|error| refused(&format!("copying {what}"), error))
    }

    /// Waits for everything on the stream.
    ///
    /// # Errors
    /// [`Error::Driver`]: those of kernels that were launched before.
    pub fn synchronise(&self) -> Result<(), Error> {
        self.stream().synchronize().map_err(|error| refused("running a kernel", error))
    }

    /// A point in the stream's work, to measure time from or to.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn now(&self) -> Result<Instant, Error> {
        let event = self.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map(Instant).map_err(|error| refused("recording an event", error))
    }

    fn out_of_memory(&self, what: &str, needed: u64, error: DriverError) -> Error {
        match (error.0, self.memory()) {
            (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Ok((free, _))) => {
                Error::OutOfMemory { what: what.to_owned(), needed, free }
            }
            _ => refused(&format!("allocating memory for {what}"), error),
        }
    }
}

/// A point in a stream's work.
pub struct Instant(CudaEvent);

impl Instant {
    /// Microseconds of the device from this point to a later one. Waits for both.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn microseconds_to(&self, later: &Self) -> Result<f64, Error> {
        let elapsed = self.0.elapsed_ms(&later.0).map_err(|error| refused("measuring time", error))?;
        Ok(f64::from(elapsed) * 1e3)
    }
}

/// The CUDA version that the driver supports.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::DriverTooOld`].
fn driver_version() -> Result<Version, Error> {
    // cudarc panics where the library is missing.
    // SAFETY: loading the driver's library runs its initialisers, which is what every CUDA program does at start.
    let present = DRIVER_LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if !present {
        return Err(Error::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the call writes one int, which `version` is; it needs no initialised driver.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    result.result().map_err(|error| refused("asking for the driver's version", error))?;
    let version = u32::try_from(version).unwrap_or(0);
    let found = Version { major: version / 1000, minor: version % 1000 / 10 };
    if found < OLDEST_DRIVER { Err(Error::DriverTooOld { found }) } else { Ok(found) }
}

fn properties(context: &Arc<CudaContext>, number: usize) -> Result<Properties, Error> {
    let asking = |error| refused(&format!("asking what cuda:{number} is"), error);
    let attribute = |attribute| context.attribute(attribute).map(|value| u32::try_from(value).unwrap_or(0));
    let capability = Version {
        major: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).map_err(asking)?,
        minor: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).map_err(asking)?,
    };
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(Properties {
        number,
        name: context.name().map_err(asking)?,
        capability,
        driver: driver_version()?,
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(asking)?,
        shared_bytes: attribute(shared).map_err(asking)?,
        cache_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(asking)?.into(),
        memory_bytes: context.total_mem().map_err(asking)? as u64,
    })
}

fn bytes<T>(length: usize) -> u64 {
    length as u64 * size_of::<T>() as u64
}

/// The driver's name and description of an error.
pub(crate) fn message(error: DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let description = error.error_string().map(|text| text.to_string_lossy().into_owned());
    match (name, description) {
        (Ok(name), Ok(description)) => format!("{name}: {description}"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// `error`, met while `action`.
pub(crate) fn refused(action: &str, error: DriverError) -> Error {
    Error::Driver { action: action.to_owned(), message: message(error) }
}
