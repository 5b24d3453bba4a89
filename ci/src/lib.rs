//! culvert-lab
