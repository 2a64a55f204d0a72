//! The vfio-user protocol: wire messages, client and server.
