//! Configuration space of a function, and what every probe does there.

use igb::pci::{command, header};
use iommu::function::{Function, FunctionError};

use crate::registers::CONFIG;

/// Reads 16 bits.
///
/// # Errors
///
/// The function is gone, or did not answer.
pub fn read_u16(function: &dyn Function, offset: u64) -> Result<u16, FunctionError> {
    let mut data = [0; 2];
    function.read(CONFIG, offset, &mut data)?;
    Ok(u16::from_le_bytes(data))
}

/// Reads 32 bits.
///
/// # Errors
///
/// As [`read_u16`].
pub fn read_u32(function: &dyn Function, offset: u64) -> Result<u32, FunctionError> {
    let mut data = [0; 4];
    function.read(CONFIG, offset, &mut data)?;
    Ok(u32::from_le_bytes(data))
}

/// Writes 16 bits.
///
/// # Errors
///
/// As [`read_u16`].
pub fn write_u16(function: &dyn Function, offset: u64, value: u16) -> Result<(), FunctionError> {
    function.write(CONFIG, offset, &value.to_le_bytes())
}

/// Vendor and device id.
///
/// # Errors
///
/// As [`read_u16`].
pub fn identity(function: &dyn Function) -> Result<(u16, u16), FunctionError> {
    Ok((
        read_u16(function, header::VENDOR_ID.into())?,
        read_u16(function, header::DEVICE_ID.into())?,
    ))
}

/// Lets the function answer to its BARs and do DMA (pci_enable_device, pci_set_master).
///
/// # Errors
///
/// As [`read_u16`].
pub fn enable(function: &dyn Function) -> Result<(), FunctionError> {
    let now = read_u16(function, header::COMMAND.into())?;
    let wanted = now | command::MEMORY | command::BUS_MASTER;
    write_u16(function, header::COMMAND.into(), wanted)
}

/// Ends the function's DMA.
///
/// # Errors
///
/// As [`read_u16`].
pub fn disable_dma(function: &dyn Function) -> Result<(), FunctionError> {
    let now = read_u16(function, header::COMMAND.into())?;
    write_u16(function, header::COMMAND.into(), now & !command::BUS_MASTER)
}
