//! DMA mapping for user-space drivers and devices.
//!
//! The driver's side: a [`container::Container`] is one I/O address space, to which functions are
//! attached and into which DMA buffers are mapped; trait [`function::Function`] is all a driver
//! knows of the hardware (regions, interrupts, DMA windows), whatever is behind it
//! ([`backend`]).
//!
//! The device's side: an [`address_space::AddressSpace`] holds the windows that a driver opened and
//! checks every access of the device against them.
//!
//! Both sides: [`memory::SharedMemory`], which never hands out a reference to memory that somebody
//! else can write, and [`interrupt`].

pub mod address_space;
pub mod backend;
pub mod container;
pub mod dma_buffer;
mod dma_handler;
pub mod function;
pub mod interrupt;
pub mod iova;
pub mod memory;
pub mod pci;
pub mod windows;
