//! The properties of `tests/properties` for the fuzz targets.

#[path = "../properties/mod.rs"]
mod properties;

macro_rules! targets {
    ($($name:ident),*) => {$(
        /// Panics where the property does not hold.
        pub fn $name(bytes: &[u8]) {
            properties::$name::holds(bytes);
        }
    )*};
}

targets!(checkpoint, config, image, loss_spec, statistics);
