//! Tests.

mod golden;
