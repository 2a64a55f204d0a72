//! An emulated SR-IOV NIC, register-compatible with the Intel 82576, served over vfio-user.
