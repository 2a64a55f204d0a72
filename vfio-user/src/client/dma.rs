//! The server's DMA requests, and the answers to them.

use std::fmt;
use std::sync::Arc;

use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::link::Link;
use crate::wire::{DmaRequest, HEADER_SIZE, Header, MAX_TRANSFER, command};

/// Answers the server's DMA requests.
///
/// The calls come from whichever thread receives at the moment, maybe one that waits for a register
/// read: they must not block, and must not make a request on the same client. What takes longer
/// moves the [`DmaReply`] elsewhere and answers later.
pub trait DmaHandler: Send + Sync {
    /// The device reads `len` bytes (at least 1, at most 1 MiB) at `iova`; the range does not wrap.
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply);
    /// The device writes `data` at `iova`; the range does not wrap.
    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply);
}

/// The answer that a DMA request waits for. Sent once, from any thread; one that is dropped instead
/// is answered `EIO`.
pub struct DmaReply {
    to: Requester,
    answered: bool,
}

/// Who asked, and gets the answer.
enum Requester {
    Server {
        link: Arc<Link>,
        header: Header,
        request: DmaRequest,
    },
    /// A device in this process. A read names how many bytes it wants.
    Local {
        read: Option<usize>,
        complete: Option<Complete>,
    },
}

/// Takes the answer to a request of this process: for a read the data, for a write nothing.
type Complete = Box<dyn FnOnce(Result<&[u8], Errno>) + Send>;

impl fmt::Debug for DmaReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("DmaReply");
        match &self.to {
            Requester::Server { request, .. } => out.field("request", request),
            Requester::Local { read, .. } => out.field("read", read),
        };
        out.field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}

impl DmaReply {
    /// The reply to a request of a device in this process, for backends without a socket: a read of
    /// so many bytes, or a write. `complete` is called exactly once, with an empty slice for a write.
    pub fn local(
        read: Option<usize>,
        complete: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) -> Self {
        let complete: Complete = Box::new(complete);
        Self {
            to: Requester::Local {
                read,
                complete: Some(complete),
            },
            answered: false,
        }
    }

    /// Answer a read. Data of the wrong length is answered `EIO` instead.
    pub fn data(mut self, data: &[u8]) {
        let expected = match &self.to {
            Requester::Server {
                header, request, ..
            } => header.command == command::DMA_READ && data.len() as u64 == request.count,
            Requester::Local { read, .. } => *read == Some(data.len()),
        };
        if expected {
            self.send(Ok(data));
        }
    }

    /// Answer a write: the data is in memory. For a read, `EIO`.
    pub fn done(mut self) {
        let expected = match &self.to {
            Requester::Server { header, .. } => header.command == command::DMA_WRITE,
            Requester::Local { read, .. } => read.is_none(),
        };
        if expected {
            self.send(Ok(&[]));
        }
    }

    /// Refuse.
    pub fn error(mut self, errno: Errno) {
        self.send(Err(errno));
    }

    fn send(&mut self, answer: Result<&[u8], Errno>) {
        self.answered = true;
        match &mut self.to {
            Requester::Server { header, .. } if header.no_reply() => {}
            Requester::Server {
                link,
                header,
                request,
            } => match answer {
                Ok(data) => {
                    let header = header.reply(size_of::<DmaRequest>() + data.len());
                    let mut head = [0; HEADER_SIZE + size_of::<DmaRequest>()];
                    head[..HEADER_SIZE].copy_from_slice(header.as_bytes());
                    head[HEADER_SIZE..].copy_from_slice(request.as_bytes());
                    link.send_reply(&head, data);
                }
                Err(errno) => link.send_reply(header.error_reply(errno).as_bytes(), &[]),
            },
            Requester::Local { complete, .. } => {
                if let Some(complete) = complete.take() {
                    complete(answer);
                }
            }
        }
    }
}

impl Drop for DmaReply {
    fn drop(&mut self) {
        if !self.answered {
            self.send(Err(Errno::EIO));
        }
        if let Requester::Server { link, .. } = &self.to {
            link.dma_answered();
        }
    }
}

/// Check a command of the server's and hand it to the handler.
pub(super) fn dispatch(link: &Arc<Link>, header: &Header, body: &[u8]) {
    let request = match check(header, body) {
        Ok(request) => request,
        Err(errno) => {
            log::debug!(
                "refused the server's {}: {errno}",
                command::name(header.command)
            );
            if !header.no_reply() {
                link.send_reply(header.error_reply(errno).as_bytes(), &[]);
            }
            return;
        }
    };
    // Counted before the reply exists, which counts down when it goes.
    let room = link.dma_begun();
    let to = Requester::Server {
        link: Arc::clone(link),
        header: *header,
        request,
    };
    let reply = DmaReply {
        to,
        answered: false,
    };
    if !room {
        return reply.error(Errno::ENOBUFS);
    }
    let Some(handler) = link.dma_handler() else {
        return reply.error(Errno::ENOTSUP);
    };
    // `check` has bounded the count by the transfer limit and by the data that came.
    let len = request.count as usize;
    if header.command == command::DMA_READ {
        handler.dma_read(request.address, len, reply);
    } else {
        let data = &body[size_of::<DmaRequest>()..][..len];
        handler.dma_write(request.address, data, reply);
    }
}

fn check(header: &Header, body: &[u8]) -> Result<DmaRequest, Errno> {
    if !matches!(header.command, command::DMA_READ | command::DMA_WRITE) {
        return Err(Errno::ENOTSUP);
    }
    let (request, data) = DmaRequest::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
    let fits = (1..=MAX_TRANSFER as u64).contains(&request.count);
    let wraps = request.address.checked_add(request.count).is_none();
    let short = header.command == command::DMA_WRITE && (data.len() as u64) < request.count;
    if !fits || wraps || short {
        Err(Errno::EINVAL)
    } else {
        Ok(request)
    }
}
