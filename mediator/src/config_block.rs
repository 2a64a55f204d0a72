//! The BAR that the mediator adds to each VF, as a pure state machine. Layout and rules:
//! [`mediator_protocol::bar`].

use mediator_protocol::bar::{
    BUFFER, BUFFER_SIZE, BarFeatures, Command, MAGIC, Register, StatusRegister, VERSION,
};
use mediator_protocol::{BlockData, RequestBody, Status};

/// What a write to COMMAND asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// A request for the PF driver; the BAR is busy until [`ConfigBlock::finish`].
    Request(RequestBody),
    /// The BAR has refused it itself and shows so.
    Refused(Status),
    /// The VF no longer waits for the outstanding request.
    Abandoned,
}

/// One VF's BAR2.
#[derive(Debug, Clone)]
pub struct ConfigBlock {
    generation: u32,
    block: u32,
    length: u32,
    status: StatusRegister,
    invalidated: u64,
    buffer: [u8; BUFFER_SIZE as usize],
    used: bool,
}

impl ConfigBlock {
    /// An idle one.
    pub fn new(generation: u32) -> Self {
        Self {
            generation,
            block: 0,
            length: 0,
            status: StatusRegister::default(),
            invalidated: 0,
            buffer: [0; BUFFER_SIZE as usize],
            used: false,
        }
    }

    /// Is a request outstanding?
    pub fn busy(&self) -> bool {
        self.status.is_busy()
    }

    /// Has the VF given a command since its last reset?
    pub fn in_use(&self) -> bool {
        self.used
    }

    /// Read at any offset, with any width. Reserved bytes read 0.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self.byte(offset + n as u64);
        }
    }

    fn byte(&self, offset: u64) -> u8 {
        if let Some(at) = offset.checked_sub(BUFFER) {
            return self.buffer.get(at as usize).copied().unwrap_or(0);
        }
        let Some(register) = Register::at(offset & !3) else {
            return 0;
        };
        let value = match register {
            Register::Magic => MAGIC,
            Register::Version => VERSION,
            Register::Features => BarFeatures::all().bits(),
            Register::Generation => self.generation,
            Register::BlockId => self.block,
            Register::Length => self.length,
            Register::Command => 0,
            Register::Status => self.status.0,
            Register::InvalidatedLo => self.invalidated as u32,
            Register::InvalidatedHi => (self.invalidated >> 32) as u32,
        };
        value.to_le_bytes()[(offset & 3) as usize]
    }

    /// Write. Registers take aligned 4- and 8-byte writes, the buffer any; the rest is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Started> {
        if offset >= BUFFER {
            if !self.busy() {
                let at = (offset - BUFFER) as usize;
                for (n, byte) in data.iter().enumerate() {
                    if let Some(place) = self.buffer.get_mut(at + n) {
                        *place = *byte;
                    }
                }
            }
            return None;
        }
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return None;
        }
        let mut started = None;
        for (n, bytes) in data.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            started = self
                .write_register(offset + 4 * n as u64, value)
                .or(started);
        }
        started
    }

    fn write_register(&mut self, offset: u64, value: u32) -> Option<Started> {
        match Register::at(offset)? {
            Register::BlockId if !self.busy() => self.block = value,
            Register::Length if !self.busy() => self.length = value,
            Register::InvalidatedLo => self.invalidated &= !u64::from(value),
            Register::InvalidatedHi => self.invalidated &= !(u64::from(value) << 32),
            Register::Command => return Some(self.command(value)),
            _ => {}
        }
        None
    }

    fn command(&mut self, value: u32) -> Started {
        self.used = true;
        let command = Command::from_register(value);
        if self.busy() {
            if command == Ok(Command::Abandon) {
                return Started::Abandoned;
            }
            self.status = self.status.with_overrun();
            return Started::Refused(Status::Busy);
        }
        let data = usize::try_from(self.length)
            .ok()
            .and_then(|length| self.buffer.get(..length));
        let body = match (command, data) {
            (Ok(Command::Read), Some([_, ..])) => RequestBody::ReadBlock {
                block: self.block,
                length: self.length as u8,
            },
            (Ok(Command::Write), Some(data @ [_, ..])) => RequestBody::WriteBlock {
                block: self.block,
                data: BlockData::new(data).expect("the buffer is as long as the largest block"),
            },
            // No such command, nothing to abandon, or a length of 0 or beyond the buffer.
            _ => {
                self.status = StatusRegister::done(Status::Invalid);
                return Started::Refused(Status::Invalid);
            }
        };
        self.status = StatusRegister::busy();
        Started::Request(body)
    }

    /// The outstanding request has ended. With `data` (of a read), buffer and LENGTH become it; the
    /// rest of the buffer is cleared.
    pub fn finish(&mut self, status: Status, data: Option<&[u8]>) {
        if let Some(data) = data {
            let count = data.len().min(self.buffer.len());
            self.buffer = [0; BUFFER_SIZE as usize];
            self.buffer[..count].copy_from_slice(&data[..count]);
            self.length = count as u32;
        }
        let overrun = self.status.overrun();
        self.status = StatusRegister::done(status);
        if overrun {
            self.status = self.status.with_overrun();
        }
    }

    /// Blocks have changed. True if the VF has to be told: bits that it has not cleared yet were
    /// announced before.
    pub fn invalidate(&mut self, mask: u64) -> bool {
        let news = mask & !self.invalidated != 0;
        self.invalidated |= mask;
        news
    }

    /// The VF was reset. If it waited for an answer, that is [`Status::Reset`].
    pub fn reset(&mut self, generation: u32) {
        let busy = self.busy();
        *self = Self::new(generation);
        if busy {
            self.status = StatusRegister::done(Status::Reset);
        }
    }

    /// The VF changes hands: nothing of before is left.
    pub fn forget(&mut self, generation: u32) {
        *self = Self::new(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bar: &ConfigBlock, register: Register) -> u32 {
        let mut data = [0; 4];
        bar.read(register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(bar: &mut ConfigBlock, register: Register, value: u32) -> Option<Started> {
        bar.write(register.offset(), &value.to_le_bytes())
    }

    fn status(bar: &ConfigBlock) -> StatusRegister {
        StatusRegister(read(bar, Register::Status))
    }

    fn start(bar: &mut ConfigBlock, command: u32, block: u32, length: u32) -> Started {
        write(bar, Register::BlockId, block);
        write(bar, Register::Length, length);
        write(bar, Register::Command, command).expect("COMMAND always answers")
    }

    #[test]
    fn a_read_and_its_answer() {
        let mut bar = ConfigBlock::new(7);
        assert_eq!(read(&bar, Register::Magic), MAGIC);
        assert_eq!(read(&bar, Register::Generation), 7);
        let started = start(&mut bar, Command::Read as u32, 1, 28);
        assert_eq!(
            started,
            Started::Request(RequestBody::ReadBlock {
                block: 1,
                length: 28
            })
        );
        assert!(status(&bar).is_busy());
        bar.finish(Status::Ok, Some(&[1, 2, 3]));
        assert_eq!(status(&bar).verdict(), Ok(Some(Status::Ok)));
        assert_eq!(read(&bar, Register::Length), 3);
        let mut data = [9; 5];
        bar.read(BUFFER, &mut data);
        assert_eq!(data, [1, 2, 3, 0, 0]);
    }

    #[test]
    fn lengths_and_commands_outside_the_rules_are_invalid() {
        for (command, length) in [
            (1, 0),
            (1, 129),
            (1, u32::MAX),
            (2, 0),
            (2, 129),
            (0, 4),
            (4, 4),
            (0x8000_0001, 4),
            (3, 4),
        ] {
            let mut bar = ConfigBlock::new(1);
            assert_eq!(
                start(&mut bar, command, 0, length),
                Started::Refused(Status::Invalid),
                "{command} {length}"
            );
            assert_eq!(status(&bar).verdict(), Ok(Some(Status::Invalid)));
        }
    }

    #[test]
    fn what_was_asked_cannot_be_changed_while_busy() {
        let mut bar = ConfigBlock::new(1);
        bar.write(BUFFER, &[5; 4]);
        start(&mut bar, Command::Write as u32, 64, 4);
        write(&mut bar, Register::BlockId, 2);
        write(&mut bar, Register::Length, 100);
        bar.write(BUFFER, &[6; 4]);
        assert_eq!(
            (read(&bar, Register::BlockId), read(&bar, Register::Length)),
            (64, 4)
        );
        assert_eq!(
            write(&mut bar, Register::Command, 1),
            Some(Started::Refused(Status::Busy))
        );
        assert!(status(&bar).is_busy() && status(&bar).overrun());
        bar.finish(Status::Denied, None);
        assert_eq!(status(&bar).verdict(), Ok(Some(Status::Denied)));
        assert!(status(&bar).overrun());
        start(&mut bar, Command::Read as u32, 0, 4);
        assert!(!status(&bar).overrun());
        assert_eq!(
            write(&mut bar, Register::Command, Command::Abandon as u32),
            Some(Started::Abandoned)
        );
    }

    #[test]
    fn invalidations_coalesce_until_cleared() {
        let mut bar = ConfigBlock::new(1);
        assert!(bar.invalidate(1 << 40 | 2));
        assert!(!bar.invalidate(2));
        assert_eq!(
            (
                read(&bar, Register::InvalidatedLo),
                read(&bar, Register::InvalidatedHi)
            ),
            (2, 1 << 8)
        );
        write(&mut bar, Register::InvalidatedLo, 2);
        assert_eq!(
            (
                read(&bar, Register::InvalidatedLo),
                read(&bar, Register::InvalidatedHi)
            ),
            (0, 1 << 8)
        );
        assert!(bar.invalidate(2));
    }

    #[test]
    fn a_reset_answers_and_a_new_tenant_finds_nothing() {
        let mut bar = ConfigBlock::new(1);
        bar.write(BUFFER, &[0x55; 128]);
        start(&mut bar, Command::Write as u32, 64, 128);
        bar.reset(2);
        assert_eq!(status(&bar).verdict(), Ok(Some(Status::Reset)));
        assert_eq!(read(&bar, Register::Generation), 2);
        bar.write(BUFFER, &[0x55; 128]);
        bar.invalidate(u64::MAX);
        bar.forget(3);
        let mut all = vec![0; 0x1000];
        bar.read(0x10, &mut all);
        assert!(all.iter().all(|&byte| byte == 0));
    }

    proptest! {
        /// No access panics, what starts is bounded, and busy ends only through an answer.
        #[test]
        fn hostile_accesses(accesses in prop::collection::vec((0u64..0x1100, prop::collection::vec(any::<u8>(), 0..16)), 0..100)) {
            let mut bar = ConfigBlock::new(1);
            for (offset, data) in accesses {
                let was_busy = bar.busy();
                match bar.write(offset, &data) {
                    Some(Started::Request(RequestBody::ReadBlock { length, .. })) => prop_assert!((1..=128).contains(&length)),
                    Some(Started::Request(RequestBody::WriteBlock { data, .. })) => prop_assert!((1..=128).contains(&data.len())),
                    Some(Started::Request(RequestBody::Mailbox(_))) => prop_assert!(false),
                    _ => prop_assert_eq!(bar.busy(), was_busy),
                }
                let mut back = data;
                bar.read(offset, &mut back);
            }
        }
    }
}
