//! Messages and the coordinator and client state machines
