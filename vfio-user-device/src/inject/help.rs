//! The grammar of rules, for `--help`.

/// Text of `--help` about `--inject`.
pub const HELP: &str = "\
Faults (--inject KIND[=ARGUMENT][,SELECTOR]..., repeatable; each has opportunities, which are counted):
  interrupt-lost         an interrupt that the driver never sees
  interrupt-late=TIME    an interrupt that comes TIME later
  writeback-late=TIME    a descriptor that is written back TIME later, with another interrupt then
  dma-fault[=WHICH]      a DMA that fails: read or write (of a buffer), descriptor, or any (default)
  read-ones              a register that reads all ones, as after a surprise removal
  flr                    a reset of the function just before it accesses a register; once by default
  mailbox-stuck          a look at the mailbox that finds it taken by the other side
  link-flap=TIME         the link goes down just before a register is accessed, and comes back after
                         TIME; once by default
  frame-lost             a frame on the wire that does not arrive
  frame-corrupt          a frame on the wire with one bit of its payload changed
Selectors:
  pf, vf0 to vf7, any    whose (default any; frames on the wire are nobody's)
  vector=N               only this MSI-X vector
  after=N | after=TIME   not the first N opportunities; not before TIME has passed (flr and link-flap
                         then strike at that time, without an access)
  every=N                then each Nth opportunity
  count=N                N times in all
  probability=P          each with this probability, 0 to 1; the same ones for the same seed
  seed=N                 another seed than 0
TIME is a number with ns, us, ms or s: 500us, 1.5s. For example:
  --inject interrupt-lost,vf0,every=10          --inject dma-fault=descriptor,vf1,after=100,count=1
  --inject writeback-late=2ms,probability=0.01,seed=7        --inject flr,vf0,after=57";
