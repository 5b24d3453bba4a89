//! culvert-host
