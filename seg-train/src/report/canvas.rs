//! Pictures with text, drawn into memory and written as PNG.

use std::{io::Cursor, path::Path, sync::Once};

use anyhow::{Context, Result, anyhow};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use plotters::{
    coord::Shift,
    prelude::{BitMapBackend, DrawingArea, IntoDrawingArea},
    style::{Color, FontStyle, IntoFont, RGBColor, TextStyle, register_font},
};

use super::colours::PAPER;
use crate::store;

/// The one font family: compiled in, so that pictures look the same on a machine without fonts.
pub const FONT: &str = "DejaVu Sans";

/// A picture being drawn.
#[derive(Clone, Debug)]
pub struct Canvas {
    image: RgbImage,
}

/// The surface Plotters draws on.
pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

impl Canvas {
    /// A white canvas, in pixels.
    pub fn new(width: u32, height: u32) -> Self {
        load_fonts();
        Self {
            image: RgbImage::from_pixel(width, height, PAPER),
        }
    }

    /// Draws with Plotters.
    ///
    /// # Errors
    ///
    /// What the drawing returns.
    pub fn plot(&mut self, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<()> {
        let size = self.image.dimensions();
        let area = BitMapBackend::with_buffer(&mut self.image, size).into_drawing_area();
        draw(&area)?;
        area.present()
            .map_err(|error| anyhow!("drawing failed: {error}"))
    }

    /// Lays a picture on the canvas with its upper left corner at `x`, `y`.
    pub fn paste(&mut self, picture: &RgbImage, x: u32, y: u32) {
        imageops::replace(&mut self.image, picture, i64::from(x), i64::from(y));
    }

    /// Writes text with its upper left corner at `x`, `y`; `size` is the height of a line in pixels.
    ///
    /// # Errors
    ///
    /// When the text cannot be drawn.
    pub fn text(&mut self, text: &str, x: u32, y: u32, size: u32, colour: Rgb<u8>) -> Result<()> {
        self.plot(|area| {
            area.draw_text(text, &writing(size, colour), (x as i32, y as i32))
                .map_err(|error| anyhow!("drawing failed: {error}"))
        })
    }

    /// Width of text as [`Canvas::text`] writes it, in pixels.
    ///
    /// # Errors
    ///
    /// When the text cannot be measured.
    pub fn width_of(text: &str, size: u32) -> Result<u32> {
        load_fonts();
        let (width, _) = (FONT, size)
            .into_font()
            .box_size(text)
            .map_err(|error| anyhow!("measuring text failed: {error}"))?;
        Ok(width)
    }

    /// Text cut to a width in pixels, with an ellipsis where it was cut.
    ///
    /// # Errors
    ///
    /// When the text cannot be measured.
    pub fn fitted(text: &str, size: u32, width: u32) -> Result<String> {
        let mut kept: Vec<char> = text.chars().collect();
        let mut shown = text.to_owned();
        while Self::width_of(&shown, size)? > width && !kept.is_empty() {
            kept.pop();
            shown = kept.iter().collect::<String>().trim_end().to_owned() + "…";
        }
        Ok(shown)
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        save_png(&self.image, path)
    }
}

/// Registers the compiled-in fonts, once.
fn load_fonts() {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // The only error is a font file that does not parse, and these two are compiled in.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

/// A colour as Plotters names it.
pub fn rgb(Rgb([r, g, b]): Rgb<u8>) -> RGBColor {
    RGBColor(r, g, b)
}

/// Text of a height in pixels and a colour.
pub fn writing(size: u32, colour: Rgb<u8>) -> TextStyle<'static> {
    TextStyle {
        color: rgb(colour).to_backend_color(),
        ..(FONT, size).into_font().into()
    }
}

/// Writes any picture as PNG, whole or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn save_png<P>(picture: &image::ImageBuffer<P, Vec<u8>>, path: &Path) -> Result<()>
where
    P: image::PixelWithColorType + image::Pixel<Subpixel = u8>,
{
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .with_context(|| format!("{} cannot be encoded", path.display()))?;
    store::write(path, png.get_ref())
}

/// The mixture that Plotters' translucent fills need.
pub fn translucent(colour: Rgb<u8>, opacity: f64) -> plotters::style::RGBAColor {
    rgb(colour).mix(opacity)
}
