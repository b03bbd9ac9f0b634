//! Implementing a backend.
