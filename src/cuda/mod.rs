//! The layer on an NVIDIA GPU: the same stages as on the processor, within the type's tolerance of the same numbers.
//!
//! The driver is all that our kernels need; cuBLASLt computes the matrix products of many rows. Both are looked for
//! when a device is first asked for, so that the library loads where neither is. A call is enqueued on a stream,
//! allocates nothing once one of its shape has been made there, and never waits, so that it can be captured into a
//! graph; positions and counts are on the device, and a graph moves them on at every replay.

mod driver;
mod engine;
mod kernels;
mod parameters;
mod product;
mod state;
mod workspace;

pub use driver::{Gpu, Memory, Stream, available};
pub use engine::{Calls, DeviceTokens, Engine, MAX_D_STATE, Started, check};
pub use kernels::Storage;
pub use parameters::Parameters;
pub use state::{Part, State};
