//! Sending the profiles of windows to where people look at them.
