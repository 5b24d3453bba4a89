//! culvert-host

pub mod sys;
