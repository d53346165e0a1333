//! U-Net.
