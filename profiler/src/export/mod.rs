//! Sending the profiles of windows to where people look at them.

pub mod credentials;
pub mod endpoint;
pub mod http;
