//! Config blocks through the BAR that the mediator adds to the VF.

use std::time::{Duration, Instant};

use igb::{V2PMAILBOX, vf};
use igb_driver::interrupt::OTHER_VECTOR;
use iommu::function::{Function, FunctionError};
use iommu::interrupt::InterruptSet;
use mediator_protocol::bar::{
    BUFFER, Command, INDEX, MAGIC, Register, SIZE, StatusRegister, VERSION,
};
use mediator_protocol::block::{self, Accept, Config, Control, Features, Stats, VfRequest};
use mediator_protocol::{BlockData, MAX_BLOCK, Status};

use crate::channel::{Access, Granted, News};
use crate::error::ChannelError;

/// How long a request may take. The mediator answers for a PF that is gone; this bounds a mediator
/// that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait for the vector before STATUS is looked at anyway: an interrupt may be lost.
const LOOK: Duration = Duration::from_millis(100);
/// What this driver can use.
const WANTED: Features = Features::all();

/// The mediated channel.
pub struct Mediated {
    waiter: InterruptSet,
    generation: u32,
}

fn read(function: &dyn Function, register: Register) -> Result<u32, FunctionError> {
    let mut data = [0; 4];
    function.read(INDEX, register.offset(), &mut data)?;
    Ok(u32::from_le_bytes(data))
}

fn write(function: &dyn Function, register: Register, value: u32) -> Result<(), FunctionError> {
    function.write(INDEX, register.offset(), &value.to_le_bytes())
}

impl Mediated {
    /// Find the mediator's BAR.
    ///
    /// # Errors
    ///
    /// There is none, or it has another version.
    pub fn find(access: &mut Access<'_>) -> Result<Self, ChannelError> {
        let function = access.regs.function().as_ref();
        if function.region(INDEX)?.size < SIZE || read(function, Register::Magic)? != MAGIC {
            return Err(ChannelError::NoMediator);
        }
        let found = read(function, Register::Version)?;
        if found != VERSION {
            return Err(ChannelError::Version {
                found,
                known: VERSION,
            });
        }
        // A set of its own: waiting here must not take the signals of the driver's vectors.
        let mut waiter = InterruptSet::new(0)?;
        waiter.watch(function.lost_event())?;
        if let Some(vector) = access.interrupts.set_mut().vector(OTHER_VECTOR as usize) {
            waiter.watch(std::os::fd::AsFd::as_fd(vector))?;
        }
        let generation = read(function, Register::Generation)?;
        Ok(Self { waiter, generation })
    }

    pub(crate) fn handshake(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        self.generation = read(access.regs.function().as_ref(), Register::Generation)?;
        let (status, bytes) = self.read_block(access, block::CONTROL)?;
        accepted("reading its offer", status)?;
        let control = Control::parse(&bytes)?;
        let accept = Accept {
            version: block::VERSION,
            features: control.offered & WANTED,
        };
        accepted(
            "the features",
            self.write_block(access, block::CONTROL, &accept.encode())?,
        )?;
        accepted("to begin", self.request(access, &VfRequest::Init)?)?;
        self.read_config(access)
    }

    pub(crate) fn read_config(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        let (status, bytes) = self.read_block(access, block::CONFIG)?;
        accepted("reading the configuration", status)?;
        Ok(Config::parse(&bytes)?)
    }

    pub(crate) fn read_stats(&mut self, access: &mut Access<'_>) -> Result<Stats, ChannelError> {
        let (status, bytes) = self.read_block(access, block::STATS)?;
        accepted("reading the counters", status)?;
        Ok(Stats::parse(&bytes)?)
    }

    pub(crate) fn request(
        &mut self,
        access: &mut Access<'_>,
        request: &VfRequest,
    ) -> Result<Status, ChannelError> {
        self.write_block(access, block::REQUEST, &request.encode())
    }

    pub(crate) fn news(&mut self, access: &mut Access<'_>) -> Result<News, ChannelError> {
        let function = access.regs.function().as_ref();
        let mailbox = access.regs.read::<vf::V2PMAILBOX>()?;
        let mut news = News {
            pf_reset: mailbox.has(V2PMAILBOX::RSTI),
            reset: mailbox.has(V2PMAILBOX::RSTD),
            config: false,
        };
        news.reset |= read(function, Register::Generation)? != self.generation;
        for (register, first) in [
            (Register::InvalidatedLo, 0),
            (Register::InvalidatedHi, u32::BITS),
        ] {
            let changed = read(function, register)?;
            if changed != 0 {
                // Taken before the block is read: a change after that fires again.
                write(function, register, changed)?;
                let config = block::CONFIG.checked_sub(first);
                news.config |= config.is_some_and(|bit| bit < 32 && changed & 1 << bit != 0);
            }
        }
        Ok(news)
    }

    /// Read a whole block.
    fn read_block(
        &mut self,
        access: &mut Access<'_>,
        id: u32,
    ) -> Result<(Status, BlockData), ChannelError> {
        let status = self.command(access, id, MAX_BLOCK as u32, Command::Read)?;
        let function = access.regs.function().as_ref();
        if status != Status::Ok {
            return Ok((status, BlockData::EMPTY));
        }
        let mut data = [0; MAX_BLOCK];
        let length = (read(function, Register::Length)? as usize).min(MAX_BLOCK);
        function.read(INDEX, BUFFER, &mut data[..length])?;
        Ok((status, BlockData::new(&data[..length])?))
    }

    /// Write a block.
    fn write_block(
        &mut self,
        access: &mut Access<'_>,
        id: u32,
        data: &[u8],
    ) -> Result<Status, ChannelError> {
        access.regs.function().write(INDEX, BUFFER, data)?;
        self.command(access, id, data.len() as u32, Command::Write)
    }

    fn command(
        &mut self,
        access: &mut Access<'_>,
        id: u32,
        length: u32,
        command: Command,
    ) -> Result<Status, ChannelError> {
        let regs = access.regs;
        let function = regs.function().as_ref();
        write(function, Register::BlockId, id)?;
        write(function, Register::Length, length)?;
        access.interrupts.arm(regs, OTHER_VECTOR)?;
        write(function, Register::Command, command as u32)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let status = StatusRegister(read(function, Register::Status)?);
            if let Some(verdict) = status.verdict()? {
                return Ok(verdict);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                write(function, Register::Command, Command::Abandon as u32)?;
                return Ok(Status::TimedOut);
            }
            self.waiter.wait(Some(left.min(LOOK)))?;
            if function.lost() {
                return Err(FunctionError::Lost.into());
            }
            // The vector may have fired for an invalidation, too: `news` looks at all of it.
            if access.interrupts.take(OTHER_VECTOR) {
                access.interrupts.arm(regs, OTHER_VECTOR)?;
            }
        }
    }
}

fn accepted(what: &'static str, status: Status) -> Result<(), ChannelError> {
    match status {
        Status::Ok => Ok(()),
        status => Err(ChannelError::Refused { what, status }),
    }
}
