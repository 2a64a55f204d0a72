//! What can stand behind a [`Function`](crate::function::Function).
//!
//! A backend must:
//! - do the accesses of one thread in the order in which they are made, posted ones included;
//! - return from `write` only when the device has seen the write, and from `dma_unmap` only when no
//!   DMA into the window is in flight;
//! - refuse a range or a vector that does not exist with `EINVAL`
//!   ([`Refused`](crate::function::FunctionError::Refused)), and otherwise pass on what the device
//!   answers;
//! - answer everything with [`Lost`](crate::function::FunctionError::Lost) once the device is gone,
//!   having made `lost_event` readable for good;
//! - keep nothing that it is lent: descriptors are duplicated.
//!
//! Where another party owns the SR-IOV capability (the kernel, for a real device), the backend also
//! overrides `sriov_configure`.

mod in_process;
pub mod kernel;
mod open;
mod vfio_user;

pub use self::in_process::InProcess;
pub use self::kernel::KernelVfio;
pub use self::open::{OpenError, Place};
pub use self::vfio_user::VfioUser;
