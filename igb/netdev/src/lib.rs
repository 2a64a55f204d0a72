//! What stands above a driver in a process: a TCP/IP stack, a TAP, a control socket.
