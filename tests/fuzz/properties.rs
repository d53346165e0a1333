//! The properties of `tests/properties` for the fuzz targets.

#[path = "../properties/mod.rs"]
mod properties;

/// Has what is shared among threads run on the one that asks: a fuzzer tells inputs apart by the code they run, and
/// handing thousands of small tasks a second to another thread takes longer than the tasks.
pub fn on_one_thread() {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()
        .expect("the first pool of threads");
}

macro_rules! targets {
    ($($name:ident),*) => {$(
        /// Panics where the property does not hold.
        pub fn $name(bytes: &[u8]) {
            properties::$name::holds(bytes);
        }
    )*};
}

targets!(checkpoint, config, image, loss_spec, statistics);
