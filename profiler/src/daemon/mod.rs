//! Continuous profiling of every process on a host that embeds LuaJIT.
//!
//! One thread samples and makes a [`Window`](crate::profile::window::Window) of each second; these go to whoever pulls profiles, and
//! together make the longer windows that are stored and exported.

pub mod cgroup;
pub mod check;
pub mod config;
pub mod discovery;
pub mod files;
pub mod identity;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod privileges;
pub mod rules;
pub mod run;
pub mod sampler;
pub mod server;
pub mod store;
pub mod windows;
