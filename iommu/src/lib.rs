//! DMA mapping for user-space drivers and devices: IOVA allocation, address spaces, DMA buffers, functions.
