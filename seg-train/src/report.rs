//! What a finished run shows: tables as text, pictures as PNG.

pub mod calibration;
pub mod canvas;
pub mod colours;
pub mod compare;
pub mod curves;
pub mod document;
pub mod examples;
pub mod page;
pub mod pictures;
pub mod plot;
pub mod table;
pub mod thresholds;
