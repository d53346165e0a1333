use std::str::FromStr;
use anyhow::Result;
use candle_core::Device;
use seg_unet::Precision;
pub(crate) struct Layer;
#[derive(Clone, Copy)] pub(crate) enum Direction { A }
impl FromStr for Direction { type Err = anyhow::Error; fn from_str(_: &str) -> Result<Self> { Ok(Self::A) } }
impl Layer { pub(crate) fn new(_: [usize; 4], _: Precision, _: &Device) -> Result<Self> { Ok(Self) } pub(crate) fn run(&mut self, _: Direction) -> Result<()> { Ok(()) } }
