//! Region losses.
