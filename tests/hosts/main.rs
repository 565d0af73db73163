//! The program is in `host.c`, its `main` included; this file has cargo build and link it.
#![no_main]
