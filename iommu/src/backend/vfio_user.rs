//! A function served over a vfio-user socket, maybe by another process.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use vfio_user::client::{Client, ClientError, ClientOptions, DmaHandler};
use vfio_user::device::{DmaAccess, Irq, Region};
use vfio_user::wire::command;

use crate::function::{Function, FunctionError};

/// A [`Function`] over [`Client`]. Dropping it ends the connection, and with that every window and
/// interrupt.
pub struct VfioUser {
    client: Client,
}

impl VfioUser {
    /// Connect to the socket of a function.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and others of the handshake.
    pub fn connect(path: &Path, options: ClientOptions) -> Result<Self, ClientError> {
        Client::connect(path, options).map(Self::new)
    }

    /// Over a connection that exists.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// `operation` names what was asked where the client's error does not.
fn failed(operation: &'static str) -> impl Fn(ClientError) -> FunctionError {
    move |error| match error {
        ClientError::Closed(_) => FunctionError::Lost,
        ClientError::Refused { command, errno } => FunctionError::Refused {
            operation: command::name(command),
            errno,
        },
        ClientError::Timeout(command) => FunctionError::TimedOut {
            operation: command::name(command),
        },
        // What the protocol cannot carry, no device has.
        ClientError::Argument(command) => FunctionError::Refused {
            operation: command::name(command),
            errno: Errno::EINVAL,
        },
        error => FunctionError::Transport {
            operation,
            source: Box::new(error),
        },
    }
}

impl Function for VfioUser {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        self.client
            .region(index)
            .map_err(failed("describing a region"))
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.client
            .region_read(region, offset, data)
            .map_err(failed("reading a region"))
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.client
            .region_write(region, offset, data)
            .map_err(failed("writing a region"))
    }

    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.client
            .region_post(region, offset, data)
            .map_err(failed("writing a region"))
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        self.client
            .irq(index)
            .map_err(failed("describing interrupts"))
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        self.client
            .set_eventfds(index, start, fds)
            .map_err(failed("assigning interrupts"))
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        self.client
            .disable_irqs(index)
            .map_err(failed("disabling interrupts"))
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.client
            .trigger(index, start, vectors)
            .map_err(failed("triggering interrupts"))
    }

    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.client
            .mask(index, start, vectors)
            .map_err(failed("masking interrupts"))
    }

    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.client
            .unmask(index, start, vectors)
            .map_err(failed("unmasking interrupts"))
    }

    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        self.client
            .set_unmask_eventfd(index, vector, fd)
            .map_err(failed("assigning an unmask event"))
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.client
            .dma_map(iova, size, access, file)
            .map_err(failed("opening a DMA window"))
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        self.client
            .dma_unmap(iova, size)
            .map_err(failed("closing a DMA window"))
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        self.client
            .dma_unmap_all()
            .map_err(failed("closing every DMA window"))
    }

    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.client.set_dma_handler(handler);
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.client.reset().map_err(failed("reset"))
    }

    fn lost(&self) -> bool {
        self.client.is_closed()
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.client.closed_fd()
    }
}
