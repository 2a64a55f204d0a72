//! What the contract promises its users.

mod frames;
mod functions;
mod queue_pages;
mod records;
mod registers;
mod vf_window;
