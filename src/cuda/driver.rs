//! The CUDA driver and cuBLASLt, as much of them as the layer needs: every call checked, every failure a sentence.
//!
//! Both libraries are looked for when a device is first asked for. cudarc panics where one is missing, so nothing
//! here calls into it before [`available`] has been asked.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::cublaslt::sys as blas;
use cudarc::driver::sys::{self, CUresult};

use super::kernels::{Kernel, Storage};
use crate::error::{Error, ErrorKind, Result, fail};

/// A stream of the driver, on a device and not destroyed while in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(sys::CUstream);

impl Stream {
    /// The legacy default one, of whichever device is current.
    pub const DEFAULT: Stream = Stream(null_mut());

    /// A caller's, `cudaStream_t` or `CUstream`.
    ///
    /// # Safety
    /// It is a stream, of the device that it is used with, and lives as long as it is used.
    pub unsafe fn of(handle: *mut c_void) -> Stream {
        Stream(handle.cast())
    }

    /// The driver's handle.
    pub fn handle(self) -> sys::CUstream {
        self.0
    }
}

/// The oldest driver that takes the kernels' PTX, 12.0.
const MIN_DRIVER: c_int = 12_000;
/// What the kernels are compiled for.
const MIN_CAPABILITY: (c_int, c_int) = (8, 0);

/// The most shared memory that the convolutions' kernel asks for: two blocks of it fit on a multiprocessor.
pub const MAX_SHARED: u32 = 80 << 10;
/// The same of the scan with dt_proj, beside what it declares.
pub const MAX_SCAN_SHARED: u32 = 20 << 10;
/// The most that the products' kernels ask for: on every device, and on those on which they begin early.
pub const MAX_TILE_SHARED: [u32; 2] = [96 << 10, 160 << 10];

/// The kernels of each storage type, as `build.rs` packs them.
macro_rules! packed {
    ($part:literal) => {
        [packed!($part, "f32"), packed!($part, "bf16"), packed!($part, "f16")]
    };
    ($part:literal, $storage:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $part, ".", $storage, ".ptx.deflate"))
    };
}
static LAYER: [&[u8]; 3] = packed!("layer");
static STEPS: [&[u8]; 3] = packed!("steps");
/// Those of a step for devices on which they begin early, and what that takes besides: a driver that can capture it into
/// a graph, and the shared memory of the large chips.
static EARLY_STEPS: [&[u8]; 3] = packed!("early_steps");
const EARLY_CAPABILITY: (c_int, c_int) = (9, 0);
const EARLY_DRIVER: c_int = 12_030;

/// How many devices there are, if the driver, a device and cuBLASLt are.
///
/// # Errors
/// `Cuda`, saying what is missing.
pub fn available() -> Result<u32> {
    static COUNT: OnceLock<Result<u32>> = OnceLock::new();
    COUNT.get_or_init(look).clone()
}

/// The version of CUDA that the driver is for, which is there.
fn driver_version() -> Result<c_int> {
    let mut version = 0;
    // SAFETY: the library is there; the pointer is to a local.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    Ok(version)
}

fn look() -> Result<u32> {
    // SAFETY: loads the driver's library, or finds that it is not there.
    if !unsafe { sys::is_culib_present() } {
        fail!(Cuda, "there is no CUDA driver on this machine");
    }
    let version = driver_version()?;
    if version < MIN_DRIVER {
        let [has, needs] = [version, MIN_DRIVER].map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
        fail!(Cuda, "the CUDA driver is too old: it is for CUDA {has}, and CUDA {needs} is needed");
    }
    // SAFETY: the library is there.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => fail!(Cuda, "the CUDA driver finds no device"),
        status => check("cuInit", status)?,
    }
    let mut count = 0;
    // SAFETY: the driver is initialised; the pointer is to a local.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    if count < 1 {
        fail!(Cuda, "the CUDA driver finds no device");
    }
    // SAFETY: loads cuBLASLt's library, or finds that it is not there.
    if !unsafe { blas::is_culib_present() } {
        fail!(Cuda, "cuBLASLt, a part of the CUDA toolkit, is not where the loader looks");
    }
    Ok(count as u32)
}

/// `Ok`, or what the driver calls the failure.
pub fn check(what: &str, status: CUresult) -> Result<()> {
    match status {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => fail!(Cuda, "the device is out of memory ({what})"),
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            fail!(Cuda, "the CUDA driver is too old for the kernels' PTX")
        }
        status => {
            let mut name = std::ptr::null();
            // SAFETY: the driver is there, as it gave the status; a name is a static string.
            let name = unsafe {
                sys::cuGetErrorName(status, &mut name);
                if name.is_null() { c"an unknown error" } else { CStr::from_ptr(name) }
            };
            fail!(Cuda, "{what} failed with {}", name.to_string_lossy())
        }
    }
}

/// The same of cuBLASLt.
pub fn check_blas(what: &str, status: blas::cublasStatus_t) -> Result<()> {
    match status {
        blas::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => fail!(Cuda, "{what} failed with {status:?}"),
    }
}

/// How a kernel is spread.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: [u32; 2],
    /// Bytes of shared memory of each block, beside what the kernel declares; at most [`Kernel::most_shared`].
    pub shared: u32,
    /// Blocks that follow each other and exchange results: 1 but where [`Gpu::has_clusters`].
    pub cluster: u32,
}

impl Default for Launch {
    fn default() -> Launch {
        Launch { grid: [1; 3], block: [1; 2], shared: 0, cluster: 1 }
    }
}

/// A file of kernels on a device that is the thread's current one.
struct Module(sys::CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: loaded, and nothing uses its kernels.
            unsafe { sys::cuModuleUnload(self.0) };
        }
    }
}

/// One device, with its primary context, which every user of the CUDA runtime in the process shares, and the kernels.
/// There is one for each device in use, until the process ends.
#[derive(Debug)]
pub struct Gpu {
    index: u32,
    context: sys::CUcontext,
    /// The kernels of each storage type that a layer has been asked for, by number.
    functions: [OnceLock<Vec<sys::CUfunction>>; 3],
    loading: Mutex<()>,
    blas: blas::cublasLtHandle_t,
    multiprocessors: u32,
    /// Whether kernels of a step begin early.
    early: bool,
}

// SAFETY: the driver's and cuBLASLt's handles may be used from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above, and by several at once.
unsafe impl Sync for Gpu {}

/// Makes the device's context the thread's current one, and the one before again when dropped.
pub struct Current(());

impl Drop for Current {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: pops what `Gpu::enter` pushed on this thread.
        unsafe { sys::cuCtxPopCurrent_v2(&mut context) };
    }
}

impl Gpu {
    /// The device of a number, of which [`available`] gives the count.
    ///
    /// # Errors
    /// `Cuda`, saying why it cannot be had.
    pub fn get(index: u32) -> Result<&'static Gpu> {
        static GPUS: Mutex<BTreeMap<u32, &'static Gpu>> = Mutex::new(BTreeMap::new());
        available()?;
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.get(&index) {
            return Ok(gpu);
        }
        let gpu: &'static Gpu = Box::leak(Box::new(Gpu::open(index)?));
        gpus.insert(index, gpu);
        Ok(gpu)
    }

    fn open(index: u32) -> Result<Gpu> {
        use sys::CUdevice_attribute as attribute;
        let mut device = 0;
        let mut context = null_mut();
        // SAFETY: the driver is initialised; pointers are to locals.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, index as c_int))?;
        }
        let get = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            check("cuDeviceGetAttribute", unsafe {
                sys::cuDeviceGetAttribute(&mut value, attribute, device)
            })?;
            Ok(value)
        };
        let capability = (
            get(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < MIN_CAPABILITY {
            let ((major, minor), (needs, zero)) = (capability, MIN_CAPABILITY);
            fail!(Cuda, "device {index} has compute capability {major}.{minor}; {needs}.{zero} is needed");
        }
        let multiprocessors = get(attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        // SAFETY: as above. The context of a device that can be used is kept for as long as the process lives.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        let with_context = || {
            let shared = get(attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
            let early = capability >= EARLY_CAPABILITY
                && driver_version()? >= EARLY_DRIVER
                && shared >= MAX_TILE_SHARED[1] as c_int;
            let mut gpu = Gpu {
                index,
                context,
                functions: Default::default(),
                loading: Mutex::new(()),
                blas: null_mut(),
                multiprocessors,
                early,
            };
            let _current = gpu.enter()?;
            // SAFETY: the context is current; the pointer is to a field.
            check_blas("cublasLtCreate", unsafe { blas::cublasLtCreate(&mut gpu.blas) })?;
            Ok(gpu)
        };
        with_context().inspect_err(|_| {
            // SAFETY: retained above, and nothing uses it.
            unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
        })
    }

    /// Has the driver load the kernels of a storage type, which it translates where it has not kept them, unless they are
    /// there.
    ///
    /// # Errors
    /// `Cuda`
    pub fn load(&self, storage: Storage) -> Result<()> {
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = &self.functions[storage as usize];
        if functions.get().is_some() {
            return Ok(());
        }
        let _current = self.enter()?;
        let load = |packed: &[u8]| {
            let mut ptx = miniz_oxide::inflate::decompress_to_vec(packed).expect("what build.rs has packed");
            ptx.push(0);
            let mut module = Module(null_mut());
            // SAFETY: the image is PTX that ends in a zero.
            check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module.0, ptx.as_ptr().cast()) })?;
            Ok(module)
        };
        let layer = load(LAYER[storage as usize])?;
        let steps = load(if self.early { EARLY_STEPS } else { STEPS }[storage as usize])?;
        let mut loaded = vec![null_mut(); Kernel::ALL.len()];
        for &kernel in Kernel::ALL.iter().filter(|kernel| kernel.exists(storage)) {
            let function = &mut loaded[kernel as usize];
            let name = kernel.symbol(storage);
            let module = if kernel.begins_early() { steps.0 } else { layer.0 };
            // SAFETY: the module is loaded, the name a C string.
            let status = unsafe { sys::cuModuleGetFunction(function, module, name.as_ptr()) };
            check("cuModuleGetFunction", status)?;
            use sys::CUfunction_attribute as attribute;
            let set = |attribute, value: u32| {
                // SAFETY: the function has just been found.
                check("cuFuncSetAttribute", unsafe {
                    sys::cuFuncSetAttribute(*function, attribute, value as c_int)
                })
            };
            if kernel.begins_early() {
                // A multiprocessor is idle for a moment where the next kernel would share out its memory otherwise.
                set(attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
            }
            if let Some(most) = kernel.most_shared(self.early) {
                set(attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)?;
            }
        }
        let _ = functions.set(loaded);
        // The kernels stay for as long as the process lives.
        std::mem::forget([layer, steps]);
        Ok(())
    }

    /// The number of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Whether blocks of the kernels of a step can form clusters, of 8 at most.
    pub fn has_clusters(&self) -> bool {
        self.early
    }

    pub(super) fn blas(&self) -> blas::cublasLtHandle_t {
        self.blas
    }

    /// Makes the device the thread's current one for as long as the value lives.
    ///
    /// # Errors
    /// `Cuda`
    pub fn enter(&self) -> Result<Current> {
        // SAFETY: the context lives as long as the process.
        check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.context) })?;
        Ok(Current(()))
    }

    /// Waits for everything on the device.
    ///
    /// # Errors
    /// `Cuda`: also of anything that failed before.
    pub fn synchronize(&self) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: a context is current.
        check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }

    /// Enqueues a kernel. The device is current, and the kernels of the type have been loaded.
    ///
    /// # Errors
    /// `Cuda`
    ///
    /// # Safety
    /// `arguments` is what the kernel takes, and its pointers reach all that the kernel touches.
    pub unsafe fn launch<A>(
        &self,
        stream: Stream,
        kernel: Kernel,
        storage: Storage,
        grid: [usize; 3],
        block: [u32; 2],
        arguments: &A,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.launch_with(stream, kernel, storage, Launch { grid, block, ..Launch::default() }, arguments)
        }
    }

    /// The same of any spread.
    ///
    /// # Errors
    /// `Cuda`
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    pub unsafe fn launch_with<A>(
        &self,
        stream: Stream,
        kernel: Kernel,
        storage: Storage,
        Launch { grid, block, shared, cluster }: Launch,
        arguments: &A,
    ) -> Result<()> {
        let functions = self.functions[storage as usize].get().expect("kernels are loaded with the layer");
        let function = functions[kernel as usize];
        // Beyond x, a side of a grid has 16 bits; what is enqueued is cut to that before.
        let [x, y, z] = grid.map(|side| side as u32);
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        if !(self.early && kernel.begins_early()) {
            // SAFETY: the caller's promise; the driver copies the arguments before it returns.
            return check(kernel.name(), unsafe {
                sys::cuLaunchKernel(
                    function,
                    x,
                    y,
                    z,
                    block[0],
                    block[1],
                    1,
                    shared,
                    stream.0,
                    parameters.as_mut_ptr(),
                    null_mut(),
                )
            });
        }
        let attribute = |id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let mut attributes = [
            attribute(
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            ),
            attribute(
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                sys::CUlaunchAttributeValue {
                    clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: cluster, y: 1, z: 1 },
                },
            ),
        ];
        let launch = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: block[0],
            blockDimY: block[1],
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: stream.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: if cluster > 1 { 2 } else { 1 },
        };
        // SAFETY: as above; these kernels wait for the one before them before they write, or read what it writes.
        let status = unsafe { sys::cuLaunchKernelEx(&launch, function, parameters.as_mut_ptr(), null_mut()) };
        check(kernel.name(), status)
    }
}

/// Memory of a device, zeroed at first.
#[derive(Debug)]
pub struct Memory {
    gpu: &'static Gpu,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// `bytes` zeros. Waits for them.
    ///
    /// # Errors
    /// `Cuda` where the device has not so much.
    pub fn zeroed(gpu: &'static Gpu, what: &str, bytes: usize) -> Result<Memory> {
        let mut memory = Memory { gpu, address: 0, bytes };
        if bytes == 0 {
            return Ok(memory);
        }
        let _current = gpu.enter()?;
        // SAFETY: the pointer is to a field.
        match unsafe { sys::cuMemAlloc_v2(&mut memory.address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                fail!(Cuda, "{what} needs {bytes} bytes, which device {} has not free", gpu.index)
            }
            status => check("cuMemAlloc", status)?,
        }
        memory.fill_zero(Stream::DEFAULT)?;
        gpu.synchronize()?;
        Ok(memory)
    }

    /// Where it is on the device; 0 for none.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Enqueues zeros.
    ///
    /// # Errors
    /// `Cuda`
    pub fn fill_zero(&self, stream: Stream) -> Result<()> {
        self.fill_zero_part(stream, 0, self.bytes)
    }

    /// Enqueues zeros for `bytes` from `start` on.
    ///
    /// # Errors
    /// `Cuda`
    pub fn fill_zero_part(&self, stream: Stream, start: usize, bytes: usize) -> Result<()> {
        assert!(start <= self.bytes && bytes <= self.bytes - start);
        if bytes == 0 {
            return Ok(());
        }
        let _current = self.gpu.enter()?;
        // SAFETY: within the allocation.
        check("cuMemset", unsafe { sys::cuMemsetD8Async(self.address + start as u64, 0, bytes, stream.0) })
    }

    /// Enqueues a copy of `bytes` from `start` on to here, of memory of the same device.
    ///
    /// # Errors
    /// `Cuda`
    pub fn copy_part(
        &self,
        stream: Stream,
        start: usize,
        from: &Memory,
        from_start: usize,
        bytes: usize,
    ) -> Result<()> {
        assert!(start <= self.bytes && bytes <= self.bytes - start);
        assert!(from_start <= from.bytes && bytes <= from.bytes - from_start);
        if bytes == 0 {
            return Ok(());
        }
        let _current = self.gpu.enter()?;
        // SAFETY: within both allocations.
        check("cuMemcpy", unsafe {
            sys::cuMemcpyDtoDAsync_v2(
                self.address + start as u64,
                from.address + from_start as u64,
                bytes,
                stream.0,
            )
        })
    }

    /// Enqueues a copy of `values` to the beginning, and returns when they are no longer needed.
    ///
    /// # Errors
    /// `Cuda`
    pub fn write<V: Copy>(&self, stream: Stream, values: &[V]) -> Result<()> {
        assert!(size_of_val(values) <= self.bytes);
        if values.is_empty() {
            return Ok(());
        }
        let _current = self.gpu.enter()?;
        // SAFETY: within the allocation. The driver has copied pageable memory when it returns.
        check("cuMemcpyHtoD", unsafe {
            sys::cuMemcpyHtoDAsync_v2(self.address, values.as_ptr().cast(), size_of_val(values), stream.0)
        })
    }

    /// Copies from `start` bytes on into `values`, when all on the stream is done.
    ///
    /// # Errors
    /// `Cuda`
    pub fn read<V: Plain>(&self, stream: Stream, start: usize, values: &mut [V]) -> Result<()> {
        let bytes = size_of_val(values);
        assert!(start <= self.bytes && bytes <= self.bytes - start);
        let _current = self.gpu.enter()?;
        if bytes > 0 {
            // SAFETY: within the allocation; any bits are a value, and `values` outlives the wait below.
            check("cuMemcpyDtoH", unsafe {
                sys::cuMemcpyDtoHAsync_v2(
                    values.as_mut_ptr().cast(),
                    self.address + start as u64,
                    bytes,
                    stream.0,
                )
            })?;
        }
        synchronize(stream)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address != 0
            && let Ok(_current) = self.gpu.enter()
        {
            // SAFETY: allocated by `zeroed`, and not freed before. Waits for what still uses it.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Numbers of which any bits are a value.
pub trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for u64 {}

/// Waits for everything on the stream. Its device is current.
///
/// # Errors
/// `Cuda`: also of anything that failed on it before.
pub fn synchronize(stream: Stream) -> Result<()> {
    // SAFETY: a stream of the current context, or null.
    check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream.0) })
}

/// A stream of our own, that waits for no other.
#[derive(Debug)]
pub struct OwnStream {
    gpu: &'static Gpu,
    stream: Stream,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for OwnStream {}

impl OwnStream {
    /// # Errors
    /// `Cuda`
    pub fn new(gpu: &'static Gpu) -> Result<OwnStream> {
        let _current = gpu.enter()?;
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the pointer is to a local.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(OwnStream { gpu, stream: Stream(stream) })
    }

    /// The stream.
    pub fn stream(&self) -> Stream {
        self.stream
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        if let Ok(_current) = self.gpu.enter() {
            // SAFETY: ours, and not destroyed before.
            unsafe { sys::cuStreamDestroy_v2(self.stream.0) };
        }
    }
}

/// `value` as the kernels take it.
///
/// # Errors
/// `Cuda` naming it where it is too large.
pub fn int(what: &str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        Error::new(ErrorKind::Cuda, format!("{what} is {value}; on a GPU it must be below 2^31"))
    })
}
