//! The vfio-user protocol: wire messages, client and server.
//!
//! A server offers a PCI function ([`device::Device`]) to one client at a time over a UNIX stream
//! socket; register pages, DMA memory and interrupts travel as file descriptors. Either side treats
//! what the other sends as hostile: it is bounded before it allocates, checked before it is used,
//! and a peer that breaks the protocol loses its own connection and nothing else.
//!
//! ```no_run
//! use std::path::Path;
//! use vfio_user::client::{Client, ClientOptions};
//! use vfio_user::device::region;
//!
//! let client = Client::connect(Path::new("vf0.sock"), ClientOptions::default())?;
//! let mut id = [0; 4];
//! client.region_read(region::CONFIG, 0, &mut id)?;
//! # Ok::<(), vfio_user::client::ClientError>(())
//! ```

pub mod client;
pub mod device;
mod frame;
pub mod server;
#[expect(unsafe_code, reason = "owns the descriptors that the kernel delivers")]
mod socket;
pub mod wire;
